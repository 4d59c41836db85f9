/* image_test.h - small image sets and their files, for the tests of runtime/data. */
#ifndef HN_IMAGE_TEST_H
#define HN_IMAGE_TEST_H
#include <zlib.h>

#include <filesystem>

#include "hn_test.h"
#include "runtime/data/images.h"

inline std::string gzip(const std::string &s)
{
    z_stream z = {};
    EXPECT_EQ(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
    std::string out(deflateBound(&z, s.size()) + 64, '\0');
    z.next_in = (Bytef *)s.data();
    z.avail_in = (uInt)s.size();
    z.next_out = (Bytef *)out.data();
    z.avail_out = (uInt)out.size();
    EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
    out.resize(z.total_out);
    deflateEnd(&z);
    return out;
}

inline std::string idx(int type, const std::vector<uint32_t> &dims, const std::string &data)
{
    std::string s = {0, 0, (char)type, (char)dims.size()};
    for (uint32_t d : dims)
        for (int shift = 24; shift >= 0; shift -= 8) s += (char)(d >> shift);
    return s + data;
}

/* Pixels that say where they are: no two images, rows or channels are the same. */
inline std::string pixels(size_t n, unsigned seed)
{
    std::mt19937 rng(seed);
    std::string s(n, '\0');
    for (char &c : s) c = (char)(rng() >> 8);
    return s;
}

inline std::string idx_images(uint32_t n, uint32_t h, uint32_t w, unsigned seed)
{
    return idx(8, {n, h, w}, pixels((size_t)n * h * w, seed));
}

inline std::string idx_labels(const std::vector<int> &labels)
{
    return idx(8, {(uint32_t)labels.size()}, std::string(labels.begin(), labels.end()));
}

/* CIFAR records; kind 100 has coarse labels, fine / 5. */
inline std::string cifar(int kind, const std::vector<int> &labels, unsigned seed)
{
    std::string s;
    for (size_t i = 0; i < labels.size(); i++) {
        if (kind == 100) s += (char)(labels[i] / 5);
        s += (char)labels[i];
        s += pixels(3072, seed + (unsigned)i);
    }
    return s;
}

/* A file of tests/fixtures/images, put into a folder under this name. */
inline void put_fixture(const std::string &folder, const std::string &fixture,
                        const std::string &name)
{
    std::filesystem::create_directories(folder);
    std::filesystem::copy_file("tests/fixtures/images/" + fixture, folder + "/" + name);
}

/* Both sets of some options; freed at the end. */
struct ImageSets {
    hn_image_set *train = nullptr, *eval = nullptr;
    hn_status status;
    explicit ImageSets(const hn_image_options &o)
    {
        status = hn_image_sets_open(&o, &train, &eval);
    }
    explicit ImageSets(const std::string &data, hn_image_options o = {})
    {
        o.data = data.c_str();
        status = hn_image_sets_open(&o, &train, &eval);
    }
    ImageSets(const ImageSets &) = delete;
    ~ImageSets()
    {
        hn_image_set_free(train);
        hn_image_set_free(eval);
    }
    const hn_images *t() const { return hn_image_set_view(train); }
    const hn_images *e() const { return hn_image_set_view(eval); }
};

inline std::vector<int32_t> labels_of(const hn_images *v)
{
    return std::vector<int32_t>(v->label, v->label + v->count);
}

inline std::string bytes_of(const hn_images *v)
{
    return std::string((const char *)v->pixel, (size_t)(v->count * v->h * v->w * v->c));
}

inline std::vector<std::string> names_of(const hn_images *v)
{
    return std::vector<std::string>(v->class_name, v->class_name + v->n_classes);
}

/* A set whose image i is full of byte i, with these labels. */
struct SmallSet {
    hn_image_set *s = nullptr;
    SmallSet(const std::vector<int32_t> &labels, int32_t n_classes,
             const std::vector<const char *> &names = {}, const std::vector<int32_t> &parts = {})
    {
        std::string pixel;
        for (size_t i = 0; i < labels.size(); i++) pixel += std::string(2 * 3 * 3, (char)i);
        hn_images v = {};
        v.count = (int64_t)labels.size(), v.h = 2, v.w = 3, v.c = 3;
        v.pixel = (const uint8_t *)pixel.data();
        v.label = labels.data();
        v.n_classes = n_classes;
        if (!names.empty()) v.class_name = names.data();
        if (!parts.empty()) v.part_class = parts.data(), v.n_parts = (int)parts.size() - 1;
        EXPECT_HN_OK(hn_image_set_make(&v, "small", &s));
    }
    SmallSet(const SmallSet &) = delete;
    ~SmallSet() { hn_image_set_free(s); }
    operator const hn_image_set *() const { return s; }
};

/* Lines a report has written. */
struct Lines {
    std::string text;
    hn_log log = {[](void *c, hn_log_level level, const char *line) {
                      *(std::string *)c +=
                          std::string(level == HN_LOG_WARN ? "! " : "") + line + "\n";
                  },
                  &text};
    bool has(const std::string &part) const { return text.find(part) != std::string::npos; }
};
#endif
