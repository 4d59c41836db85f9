/* runtime/data/image_decode: JPEG, PNG, EXIF, resizing, damage. Pixels to compare with are Pillow's
 * (tests/golden/make_images.py). */
#include <zlib.h>

#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/data/image_decode.h"
#include "runtime/file/safetensors.h"

namespace {

const char kFolder[] = "tests/fixtures/images/";

class Golden {
    hn_st_file *f_ = nullptr;

  public:
    Golden() { EXPECT_HN_OK(hn_st_open("tests/fixtures/images/golden.safetensors", &f_)); }
    Golden(const Golden &) = delete;
    ~Golden() { hn_st_close(f_); }
    const hn_st_tensor *at(const std::string &name) const { return hn_st_find(f_, name.c_str()); }
    std::vector<uint8_t> pixels(const std::string &name) const
    {
        const hn_st_tensor *t = at(name);
        const auto *p = static_cast<const uint8_t *>(t->data);
        return std::vector<uint8_t>(p, p + hn_st_elements(t));
    }
};

struct Image {
    hn_status status = HN_OK;
    hn_image_info info = {};
    std::vector<uint8_t> pixel;
};

/* c 0: the channels the image has. */
Image decode(const std::string &bytes, int c = 0, int64_t max_pixels = 0)
{
    Image i;
    i.status = hn_image_probe(bytes.data(), bytes.size(), "image", max_pixels, &i.info);
    if (i.status != HN_OK) return i;
    if (c == 0) c = i.info.c;
    GuardedArray<uint8_t> room((size_t)(i.info.h * i.info.w * c));
    i.status = hn_image_decode(bytes.data(), bytes.size(), "image", &i.info, c, room.data());
    i.pixel = room.host();
    return i;
}

std::string file(const std::string &name) { return read_file(kFolder + name); }

class ImageFile : public testing::TestWithParam<const char *> {};

TEST_P(ImageFile, HasThePixelsThatPillowSees)
{
    const Golden golden;
    const hn_st_tensor *t = golden.at(GetParam());
    ASSERT_NE(t, nullptr);
    const Image i = decode(file(GetParam()));
    ASSERT_EQ(i.status, HN_OK) << hn_last_error();
    EXPECT_EQ(i.info.h, t->dim[0]);
    EXPECT_EQ(i.info.w, t->dim[1]);
    EXPECT_EQ(i.info.c, t->dim[2]);
    /* libjpeg-turbo's integer DCT is exact to the bit; another libjpeg may round otherwise */
    const auto want = golden.pixels(GetParam());
    ASSERT_EQ(i.pixel.size(), want.size());
    int worst = 0;
    for (size_t k = 0; k < want.size(); k++)
        worst = std::max(worst, std::abs((int)i.pixel[k] - (int)want[k]));
    EXPECT_LE(worst, std::strstr(GetParam(), ".jpg") ? 1 : 0);
}

INSTANTIATE_TEST_SUITE_P(All, ImageFile,
                         testing::Values("rgb444.jpg", "rgb420.jpg", "progressive.jpg", "grey.jpg",
                                         "exif1.jpg", "exif2.jpg", "exif3.jpg", "exif4.jpg",
                                         "exif5.jpg", "exif6.jpg", "exif7.jpg", "exif8.jpg",
                                         "grey1.png", "grey2.png", "grey4.png", "grey8.png",
                                         "rgb8.png", "rgb16.png", "grey16.png", "interlaced.png",
                                         "interlaced1.png", "rgba.png", "grey_alpha.png",
                                         "palette.png", "palette_clear.png", "clear_colour.png",
                                         "exif6.png", "text.png"),
                         [](const auto &p) {
                             std::string name = p.param;
                             for (char &c : name)
                                 if (!isalnum((unsigned char)c)) c = '_';
                             return name;
                         });

TEST(ImageDecode, SaysWhatItDropped)
{
    for (const char *name : {"rgba.png", "grey_alpha.png", "palette_clear.png", "clear_colour.png"})
        EXPECT_TRUE(decode(file(name)).info.alpha) << name;
    for (const char *name : {"rgb8.png", "palette.png", "grey.jpg"})
        EXPECT_FALSE(decode(file(name)).info.alpha) << name;
    EXPECT_TRUE(decode(file("rgb16.png")).info.deep);
    EXPECT_FALSE(decode(file("rgb8.png")).info.deep);
    for (int turn = 1; turn <= 8; turn++)
        EXPECT_EQ(decode(file("exif" + std::to_string(turn) + ".jpg")).info.orientation, turn);
}

TEST(ImageDecode, RepeatsGreyInThreeChannels)
{
    for (const char *name :
         {"grey.jpg", "grey1.png", "grey8.png", "grey16.png", "grey_alpha.png"}) {
        const Image one = decode(file(name)), three = decode(file(name), 3);
        ASSERT_EQ(three.status, HN_OK) << name << hn_last_error();
        ASSERT_EQ(three.pixel.size(), 3 * one.pixel.size());
        for (size_t k = 0; k < three.pixel.size(); k++)
            ASSERT_EQ(three.pixel[k], one.pixel[k / 3]) << name;
    }
}

TEST(ImageDecode, RefusesColourAsGrey)
{
    for (const char *name : {"rgb444.jpg", "rgb8.png", "palette.png"})
        EXPECT_EQ(decode(file(name), 1).status, HN_ERR_SHAPE) << name;
    EXPECT_HN_FAIL(decode(file("rgb8.png"), 1).status, HN_ERR_SHAPE, "colour image");
    EXPECT_HN_FAIL(decode(file("rgb8.png"), 2).status, HN_ERR_SHAPE, "2 channels");
}

TEST(ImageDecode, RefusesCmykByName)
{
    EXPECT_HN_FAIL(decode(file("cmyk.jpg")).status, HN_ERR_UNSUPPORTED, "image: CMYK JPEG");
}

TEST(ImageDecode, RefusesOtherFiles)
{
    EXPECT_HN_FAIL(decode("").status, HN_ERR_FORMAT, "image: the file is empty");
    EXPECT_HN_FAIL(decode("GIF89a...").status, HN_ERR_FORMAT, "neither JPEG nor PNG");
    EXPECT_HN_FAIL(decode("\xff\xd8").status, HN_ERR_FORMAT, "neither JPEG nor PNG");
}

/* Whatever is missing at the end, not one file is taken for whole. */
TEST(ImageDecode, RefusesEveryCutOffFile)
{
    for (const char *name : {"rgb420.jpg", "progressive.jpg", "grey.jpg", "rgb8.png",
                             "interlaced.png", "palette.png", "grey16.png"}) {
        const std::string whole = file(name);
        for (size_t n = 0; n < whole.size(); n++) {
            std::string part(whole.data(), n);
            part.shrink_to_fit();
            const Image i = decode(part);
            ASSERT_NE(i.status, HN_OK) << name << " cut at " << n << " of " << whole.size();
            ASSERT_NE(std::strstr(hn_last_error(), "image: "), nullptr) << hn_last_error();
        }
    }
}

/* A PNG's checksums find every changed byte; a changed JPEG may only not be read out of bounds. */
TEST(ImageDecode, FindsChangedBytes)
{
    for (const char *name : {"rgb8.png", "interlaced.png", "palette.png"}) {
        const std::string whole = file(name);
        const Image want = decode(whole);
        for (size_t n = 0; n < whole.size(); n++) {
            std::string changed = whole;
            changed[n] = (char)(changed[n] ^ 0x41);
            const Image i = decode(changed);
            if (i.status == HN_OK) {
                EXPECT_EQ(i.pixel, want.pixel) << name << " at " << n;
            }
        }
    }
    for (const char *name : {"rgb420.jpg", "progressive.jpg", "grey.jpg", "exif6.jpg"}) {
        const std::string whole = file(name);
        for (size_t n = 0; n < whole.size(); n++)
            for (int bit : {0x01, 0x80, 0xff}) {
                std::string changed = whole;
                changed[n] = (char)(changed[n] ^ bit);
                decode(changed, 3, 1 << 16);
            }
    }
}

TEST(ImageDecode, RefusesImagesAboveTheLimit)
{
    const std::string jpg = file("rgb444.jpg"), png = file("rgb8.png"); /* 17 x 13 */
    EXPECT_EQ(decode(jpg, 0, 221).status, HN_OK);
    EXPECT_EQ(decode(png, 0, 221).status, HN_OK);
    EXPECT_HN_FAIL(decode(jpg, 0, 220).status, HN_ERR_FORMAT, "17 x 13 pixels");
    EXPECT_HN_FAIL(decode(png, 0, 220).status, HN_ERR_FORMAT, "at most 220 pixels");
}

std::string big_endian(uint32_t v)
{
    return {(char)(v >> 24), (char)(v >> 16), (char)(v >> 8), (char)v};
}

std::string chunk(const std::string &kind, const std::string &data)
{
    const std::string body = kind + data;
    const auto crc = (uint32_t)crc32(0, (const Bytef *)body.data(), (uInt)body.size());
    return big_endian((uint32_t)data.size()) + body + big_endian(crc);
}

std::string png_of(uint32_t w, uint32_t h, const std::string &data)
{
    return std::string("\x89PNG\r\n\x1a\n") +
           chunk("IHDR", big_endian(w) + big_endian(h) + std::string("\x08\x02\0\0\0", 5)) +
           chunk("IDAT", data) + chunk("IEND", "");
}

/* The head of a few bytes promises gigabytes: refused before anything is allocated. */
TEST(ImageDecode, RefusesBombs)
{
    const std::string none = png_of(60000, 60000, "x\x9c");
    EXPECT_HN_FAIL(decode(none).status, HN_ERR_FORMAT, "60000 x 60000 pixels");
    EXPECT_HN_FAIL(decode(png_of(1u << 30, 1, "x")).status, HN_ERR_FORMAT, "image: damaged PNG");
    EXPECT_HN_FAIL(decode(png_of(0, 1, "x")).status, HN_ERR_FORMAT, "image: damaged PNG");
    EXPECT_HN_FAIL(decode(png_of(4, 4, "no zlib stream")).status, HN_ERR_FORMAT, "damaged PNG");

    /* a progressive JPEG whose scans are repeated a thousand times */
    const std::string whole = file("progressive.jpg");
    size_t first = std::string::npos;
    for (size_t i = 2; i + 3 < whole.size();) { /* segments up to the first scan */
        if ((unsigned char)whole[i + 1] == 0xda) {
            first = i;
            break;
        }
        i += 2 + ((unsigned char)whole[i + 2] << 8 | (unsigned char)whole[i + 3]);
    }
    ASSERT_NE(first, std::string::npos);
    std::string bomb = whole.substr(0, first);
    for (int k = 0; k < 1000; k++) bomb += whole.substr(first, whole.size() - 2 - first);
    bomb += "\xff\xd9";
    EXPECT_HN_FAIL(decode(bomb).status, HN_ERR_FORMAT, "damaged JPEG");
}

TEST(ImageDecode, RefusesAFileThatChanged)
{
    const std::string a = file("rgb8.png"), b = file("exif1.jpg");
    hn_image_info info = {};
    ASSERT_HN_OK(hn_image_probe(a.data(), a.size(), "a", 0, &info));
    GuardedArray<uint8_t> room((size_t)(info.h * info.w * 3));
    EXPECT_HN_FAIL(hn_image_decode(b.data(), b.size(), "b", &info, 3, room.data()), HN_ERR_FORMAT,
                   "b: ");
    info.w = 13, info.h = 17; /* as many pixels */
    EXPECT_HN_FAIL(hn_image_decode(a.data(), a.size(), "a", &info, 3, room.data()), HN_ERR_FORMAT,
                   "changed");
    room.host();
}

TEST(ImageDecode, ReportsMissingMemory)
{
    const std::string bytes = file("exif6.jpg");
    hn_image_info info = {};
    ASSERT_HN_OK(hn_image_probe(bytes.data(), bytes.size(), "a", 0, &info));
    std::vector<uint8_t> pixel((size_t)(info.h * info.w * 3));
    hn_alloc_fail_at(1); /* the room in which the picture is turned */
    EXPECT_EQ(hn_image_decode(bytes.data(), bytes.size(), "a", &info, 3, pixel.data()),
              HN_ERR_MEMORY);
    hn_alloc_fail_at(0);
}

// ---- EXIF ----

std::string tiff(const std::string &entries, int n)
{
    return std::string("II*\0\x08\0\0\0", 8) + (char)n + '\0' + entries;
}

int orientation(const std::string &s)
{
    const std::vector<uint8_t> exact(s.begin(), s.end());
    return hn_exif_orientation(exact.data(), exact.size());
}

TEST(Exif, FindsTheOrientation)
{
    const std::string entry("\x12\x01\x03\0\x01\0\0\0\x06\0\0\0", 12);
    EXPECT_EQ(orientation(tiff(entry, 1)), 6);
    EXPECT_EQ(
        orientation(std::string("MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0", 22)), 8);
}

TEST(Exif, CountsAsUprightWhenItCannotBeRead)
{
    const std::string entry("\x12\x01\x03\0\x01\0\0\0\x06\0\0\0", 12);
    std::string wrong_type = entry, too_large = entry, zero = entry;
    wrong_type[2] = 4, too_large[8] = 9, zero[8] = 0;
    for (const std::string &s :
         {std::string(), std::string("II*"), std::string("XX*\0\x08\0\0\0", 8), tiff("", 0),
          tiff(entry.substr(0, 11), 1), tiff(entry, 0), tiff(wrong_type, 1), tiff(too_large, 1),
          tiff(zero, 1), std::string("II*\0\xff\xff\xff\xff", 8),
          std::string("II*\0\xfe\xff\xff\xff\0\0", 10)})
        EXPECT_EQ(orientation(s), 1);
    const std::string whole = tiff(entry, 1);
    for (size_t n = 0; n < whole.size(); n++) EXPECT_EQ(orientation(whole.substr(0, n)), 1) << n;
}

// ---- resizing ----

class Resize : public testing::TestWithParam<const char *> {};

/* Pillow's own integers: not one bit differs. */
TEST_P(Resize, EqualsTorchvisionOnPillow)
{
    const Golden golden;
    const std::string name = std::string("resize.") + GetParam();
    const hn_st_tensor *in = golden.at(name + ".in"), *out = golden.at(name + ".out");
    ASSERT_NE(in, nullptr);
    ASSERT_NE(out, nullptr);
    GuardedArray<uint8_t> got((size_t)hn_st_elements(out));
    const std::vector<uint8_t> src = golden.pixels(name + ".in");
    const int64_t side = out->dim[0];
    ASSERT_HN_OK(hn_image_resize_crop(src.data(), in->dim[0], in->dim[1], (int)in->dim[2], side,
                                      side, got.data()));
    EXPECT_EQ(got.host(), golden.pixels(name + ".out"));
}

INSTANTIATE_TEST_SUITE_P(All, Resize,
                         testing::Values("wide", "tall", "large", "same", "row", "strong",
                                         "wide_grey", "tall_grey", "large_grey", "same_grey",
                                         "row_grey", "strong_grey"));

/* Columns [at, at + size) and rows below of a square of `side`. */
std::vector<uint8_t> centre_of(const std::vector<uint8_t> &square, int64_t side, int64_t size,
                               int64_t at)
{
    std::vector<uint8_t> out;
    for (int64_t y = at; y < at + size; y++)
        for (int64_t x = at * 3; x < (at + size) * 3; x++)
            out.push_back(square[(size_t)(y * side * 3 + x)]);
    return out;
}

/* The centre of what the whole square would be: a rest of 18 leaves 9 before it; one of 3 leaves 2
 * and one of 5 again 2, Python's round(1.5) and round(2.5). */
TEST(Resize, CutsTheCentreOfALongerSide)
{
    constexpr int64_t h = 53;
    std::vector<uint8_t> src((size_t)(h * h * 3));
    for (size_t i = 0; i < src.size(); i++) src[i] = (uint8_t)(i * i / 7 + i * 13);
    const int64_t at[][3] = {{146, 128, 9}, {23, 20, 2}, {25, 20, 2}};
    for (const auto &[side, size, first] : at) {
        std::vector<uint8_t> whole((size_t)(side * side * 3));
        GuardedArray<uint8_t> got((size_t)(size * size * 3));
        ASSERT_HN_OK(hn_image_resize_crop(src.data(), h, h, 3, side, side, whole.data()));
        ASSERT_HN_OK(hn_image_resize_crop(src.data(), h, h, 3, side, size, got.data()));
        EXPECT_EQ(got.host(), centre_of(whole, side, size, first)) << side << " " << size;
    }
}

TEST(Resize, RefusesBadSizes)
{
    uint8_t p[16] = {};
    EXPECT_HN_FAIL(hn_image_resize_crop(p, 0, 2, 1, 2, 2, p), HN_ERR_SHAPE, "2 x 0 x 1");
    EXPECT_HN_FAIL(hn_image_resize_crop(p, 2, 2, 5, 2, 2, p), HN_ERR_SHAPE, "2 x 2 x 5");
    EXPECT_HN_FAIL(hn_image_resize_crop(p, 2, 2, 1, 0, 0, p), HN_ERR_SHAPE, "to 0 pixels");
    EXPECT_HN_FAIL(hn_image_resize_crop(p, 2, 2, 1, 2, 3, p), HN_ERR_SHAPE, "3 pixels cut from 2");
}

TEST(Resize, ReportsMissingMemory)
{
    uint8_t src[12] = {}, dst[4];
    for (uint64_t nth = 1; nth < 12; nth++) {
        hn_alloc_fail_at(nth);
        const hn_status st = hn_image_resize_crop(src, 3, 4, 1, 2, 2, dst);
        hn_alloc_fail_at(0);
        if (nth <= 9)
            EXPECT_EQ(st, HN_ERR_MEMORY) << nth;
        else
            EXPECT_EQ(st, HN_OK) << nth;
    }
}

} // namespace
