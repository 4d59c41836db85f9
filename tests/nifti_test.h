/* nifti_test.h - NIfTI files made of their fields, for the tests of runtime/data. */
#ifndef HN_NIFTI_TEST_H
#define HN_NIFTI_TEST_H
#include <bit>
#include <type_traits>

#include "image_test.h" /* gzip */
#include "runtime/data/nifti.h"

/* A file as its fields; what a test wants to break, it changes. */
struct NiftiFile {
    bool big = false, two = false, pair = false;
    std::vector<int64_t> dim = {3, 4, 3, 2, 1, 1, 1, 1};
    int type = 2, bits = 8, unit = 2, qform = 0, sform = 0;
    std::vector<double> pixdim = {1, 1, 1, 1, 1, 1, 1, 1};
    double offset = -1, slope = 0, inter = 0; /* offset -1: behind the header and extensions */
    double quatern[3] = {}, q_offset[3] = {}, srow[3][4] = {};
    std::string magic, extension, data;

    template <class T>
    void put(std::string &s, size_t at, T v) const
    {
        std::string bytes((const char *)&v, sizeof v);
        if (big != (std::endian::native == std::endian::big))
            std::reverse(bytes.begin(), bytes.end());
        s.replace(at, sizeof v, bytes);
    }
    template <class T>
    void add(T v)
    {
        data.append(sizeof v, '\0');
        put(data, data.size() - sizeof v, v);
    }
    size_t head_bytes() const { return two ? 540 : 348; }
    double data_at() const
    {
        return offset != -1 ? offset : pair ? 0 : (double)(head_bytes() + 4 + extension.size());
    }
    std::string head1() const
    {
        std::string s(352, '\0');
        put(s, 0, (int32_t)348);
        for (size_t i = 0; i < 8; i++) {
            put(s, 40 + 2 * i, (int16_t)dim[i]);
            put(s, 76 + 4 * i, (float)pixdim[i]);
        }
        put(s, 70, (int16_t)type);
        put(s, 72, (int16_t)bits);
        put(s, 108, (float)data_at());
        put(s, 112, (float)slope);
        put(s, 116, (float)inter);
        s[123] = (char)unit;
        put(s, 252, (int16_t)qform);
        put(s, 254, (int16_t)sform);
        for (size_t i = 0; i < 3; i++) {
            put(s, 256 + 4 * i, (float)quatern[i]);
            put(s, 268 + 4 * i, (float)q_offset[i]);
            for (size_t k = 0; k < 4; k++) put(s, 280 + 16 * i + 4 * k, (float)srow[i][k]);
        }
        s.replace(344, 3, magic.empty() ? (pair ? "ni1" : "n+1") : magic);
        return s;
    }
    std::string head2() const
    {
        std::string s(544, '\0');
        put(s, 0, (int32_t)540);
        s.replace(4, 8, std::string(pair ? "ni2\0\r\n\032\n" : "n+2\0\r\n\032\n", 8));
        put(s, 12, (int16_t)type);
        put(s, 14, (int16_t)bits);
        for (size_t i = 0; i < 8; i++) {
            put(s, 16 + 8 * i, (int64_t)dim[i]);
            put(s, 104 + 8 * i, pixdim[i]);
        }
        put(s, 168, (int64_t)data_at());
        put(s, 176, slope);
        put(s, 184, inter);
        put(s, 344, (int32_t)qform);
        put(s, 348, (int32_t)sform);
        for (size_t i = 0; i < 3; i++) {
            put(s, 352 + 8 * i, quatern[i]);
            put(s, 376 + 8 * i, q_offset[i]);
            for (size_t k = 0; k < 4; k++) put(s, 400 + 32 * i + 8 * k, srow[i][k]);
        }
        put(s, 500, (int32_t)unit);
        return s;
    }
    /* Header, and of a single file the rest. */
    std::string bytes() const
    {
        std::string s = two ? head2() : head1();
        if (!extension.empty()) s[head_bytes()] = 1;
        return pair ? s : s + extension + data;
    }
};

/* uint8 0, 1, 2, ... in the order of the file. */
inline NiftiFile counting_file(const std::vector<int64_t> &dim = {3, 4, 3, 2, 1, 1, 1, 1})
{
    NiftiFile f;
    f.dim = dim;
    int64_t n = 1;
    for (int64_t i = 1; i <= dim[0]; i++) n *= dim[(size_t)i];
    for (int64_t i = 0; i < n; i++) f.data += (char)i;
    return f;
}

struct Nifti {
    hn_nifti v = {};
    hn_status status = HN_OK;
    explicit Nifti(const std::string &path, int64_t volume = 0, int64_t max_voxels = 0)
    {
        status = hn_nifti_read(path.c_str(), volume, max_voxels, &v);
    }
    Nifti(const std::string &name, const std::string &bytes, int64_t volume = 0,
          int64_t max_voxels = 0)
    {
        status =
            hn_nifti_read_memory(name.c_str(), bytes.data(), bytes.size(), volume, max_voxels, &v);
    }
    explicit Nifti(const NiftiFile &f, int64_t volume = 0) : Nifti("f.nii", f.bytes(), volume) {}
    Nifti(const Nifti &) = delete;
    ~Nifti() { hn_nifti_free(&v); }
    int64_t n() const { return v.info.nx * v.info.ny * v.info.nz; }
    float at(int64_t x, int64_t y, int64_t z) const
    {
        return v.value[(x * v.info.ny + y) * v.info.nz + z];
    }
    std::vector<float> values() const { return std::vector<float>(v.value, v.value + n()); }
};
#endif
