/* runtime/data/nifti: values, types, byte orders, places in space, damage, masks. */
#include <algorithm>
#include <limits>

#include "nifti_test.h"
#include "runtime/base/alloc.h"

namespace {

/* ---- real files ---- */

/* nibabel's values (SOURCE.md), single voxels by another reader. */
TEST(NiftiFiles, BigEndianAnatomical)
{
    HN_NEED_DATA(data, "nifti");
    const Nifti f(data + "/nibabel_anatomical.nii");
    ASSERT_EQ(f.status, HN_OK) << hn_last_error();
    const hn_nifti_info &i = f.v.info;
    EXPECT_TRUE(i.big_endian && !i.nifti2 && !i.pair && !i.gzip && !i.scaled);
    EXPECT_STREQ(i.type, "int16");
    EXPECT_EQ((std::vector<int64_t>{i.nx, i.ny, i.nz, i.volumes}),
              (std::vector<int64_t>{33, 41, 25, 1}));
    const auto v = f.values();
    EXPECT_EQ(*std::min_element(v.begin(), v.end()), -610);
    EXPECT_EQ(*std::max_element(v.begin(), v.end()), 30393);
    EXPECT_EQ(v[1], 8026); /* (0, 0, 1) */
    EXPECT_EQ(f.at(1, 2, 2), 7339);
    const double want[3][4] = {{-2, 0, 0, 32}, {0, 2, 0, -40}, {0, 0, 2, -16}};
    for (int r = 0; r < 3; r++) {
        EXPECT_EQ(i.voxel_mm[r], 2);
        for (int c = 0; c < 4; c++) EXPECT_EQ(i.affine[r][c], want[r][c]) << r << c;
    }
}

TEST(NiftiFiles, FourAxesWithAnExtension)
{
    HN_NEED_DATA(data, "nifti");
    const double mean[] = {172.9139438205295, 172.90228610568576};
    for (int64_t t = 0; t < 2; t++) {
        const Nifti f(data + "/nibabel_example4d.nii.gz", t);
        ASSERT_EQ(f.status, HN_OK) << hn_last_error();
        const hn_nifti_info &i = f.v.info;
        EXPECT_TRUE(i.gzip && !i.big_endian && !i.scaled);
        EXPECT_STREQ(i.type, "int16");
        EXPECT_EQ(i.extension_bytes, 64);
        EXPECT_EQ((std::vector<int64_t>{i.nx, i.ny, i.nz, i.volumes}),
                  (std::vector<int64_t>{128, 96, 24, 2}));
        EXPECT_NEAR(i.voxel_mm[2], 2.2, 1e-6);
        double sum = 0;
        for (float v : f.values()) sum += v;
        EXPECT_NEAR(sum / (double)f.n(), mean[t], 1e-9);
    }
    EXPECT_HN_FAIL(Nifti(data + "/nibabel_example4d.nii.gz", 2).status, HN_ERR_ARG,
                   "volume 2: the file has 2");
}

TEST(NiftiFiles, ScaledFunctional)
{
    HN_NEED_DATA(data, "nifti");
    float least = INFINITY, most = -INFINITY;
    for (int64_t t = 0; t < 20; t++) {
        const Nifti f(data + "/nibabel_functional.nii", t);
        ASSERT_EQ(f.status, HN_OK) << hn_last_error();
        EXPECT_TRUE(f.v.info.scaled);
        EXPECT_EQ(f.v.info.volumes, 20);
        for (float v : f.values()) least = std::min(least, v), most = std::max(most, v);
        if (t != 1) continue;
        EXPECT_FLOAT_EQ(f.at(0, 0, 0), 4039.729291677475f);
        EXPECT_FLOAT_EQ(f.at(1, 2, 2), 3642.5607880949974f);
    }
    EXPECT_FLOAT_EQ(least, 629.826171875f);
    EXPECT_FLOAT_EQ(most, 5571.621858656406f);
}

TEST(NiftiFiles, SmallStandard)
{
    HN_NEED_DATA(data, "nifti");
    const Nifti f(data + "/nibabel_standard.nii.gz");
    ASSERT_EQ(f.status, HN_OK) << hn_last_error();
    EXPECT_EQ((std::vector<int64_t>{f.v.info.nx, f.v.info.ny, f.v.info.nz}),
              (std::vector<int64_t>{4, 5, 7}));
    EXPECT_EQ(f.v.info.voxel_mm[1], 3);
    double sum = 0;
    for (float v : f.values()) sum += v;
    EXPECT_EQ(sum, 54.642857142857146 * 140);
}

TEST(NiftiFiles, TissueLabelsOfTheMniVolume)
{
    HN_NEED_DATA(data, "nifti");
    const Nifti f(data + "/mni_icbm152_tissue_labels.nii.gz");
    ASSERT_EQ(f.status, HN_OK) << hn_last_error();
    std::vector<uint8_t> label((size_t)f.n());
    ASSERT_HN_OK(hn_nifti_labels(&f.v, "labels", label.data()));
    int64_t count[256] = {};
    for (uint8_t l : label) count[l]++;
    EXPECT_EQ(count[0], 6963686);
    EXPECT_EQ(count[1], 1079599);
    EXPECT_EQ(count[2], 632004);
    EXPECT_EQ(f.v.info.affine[1][3], -134);

    TempDir dir;
    ASSERT_HN_OK(hn_nifti_save_mask((dir / "m.nii.gz").c_str(), &f.v.info, label.data()));
    const Nifti again(dir / "m.nii.gz");
    ASSERT_EQ(again.status, HN_OK) << hn_last_error();
    EXPECT_EQ(again.values(), f.values());
}

/* ---- types and orders ---- */

template <class T>
void expect_values(int type, const std::vector<T> &stored)
{
    for (bool big : {false, true})
        for (bool two : {false, true}) {
            NiftiFile f;
            f.big = big, f.two = two, f.type = type, f.bits = 8 * (int)sizeof(T);
            f.dim = {3, 1, 2, 3, 1, 1, 1, 1};
            for (T v : stored) f.add(v);
            const Nifti got(f);
            ASSERT_EQ(got.status, HN_OK) << hn_last_error();
            EXPECT_EQ(got.v.info.big_endian, big);
            EXPECT_EQ(got.v.info.nifti2, two);
            for (int64_t y = 0; y < 2; y++)
                for (int64_t z = 0; z < 3; z++)
                    EXPECT_EQ(got.at(0, y, z), (float)stored[(size_t)(z * 2 + y)])
                        << type << big << two;
        }
}

TEST(Nifti, ReadsEveryTypeInBothByteOrders)
{
    expect_values<uint8_t>(2, {0, 1, 2, 127, 128, 255});
    expect_values<int8_t>(256, {0, 1, -1, 127, -128, 5});
    expect_values<int16_t>(4, {0, 1, -2, 32767, -32768, 258});
    expect_values<uint16_t>(512, {0, 1, 2, 32767, 65535, 258});
    expect_values<int32_t>(8, {0, 1, -2, 2147483647, -2147483647 - 1, 16909060});
    expect_values<uint32_t>(768, {0, 1, 2, 2147483647, 4294967295u, 16909060});
    expect_values<float>(16, {0, 1.5f, -2.25f, 3e38f, -1e-40f, INFINITY});
    expect_values<double>(64, {0, 1.5, -2.25, 1e300, -1e-300, 0.1});
}

TEST(Nifti, TurnsTheFilesAxesAround)
{
    const Nifti f(counting_file());
    ASSERT_EQ(f.status, HN_OK) << hn_last_error();
    for (int64_t x = 0; x < 4; x++)
        for (int64_t y = 0; y < 3; y++)
            for (int64_t z = 0; z < 2; z++) EXPECT_EQ(f.at(x, y, z), (z * 3 + y) * 4 + x);
}

TEST(Nifti, TurnsMoreSlicesThanASlabHas)
{
    const Nifti f(counting_file({3, 2, 3, 35, 1, 1, 1, 1}));
    ASSERT_EQ(f.status, HN_OK) << hn_last_error();
    for (int64_t z = 0; z < 35; z++)
        EXPECT_EQ(f.at(1, 2, z), (float)(uint8_t)((z * 3 + 2) * 2 + 1));
}

TEST(Nifti, ScalesInDoubleAndSlopesOfNothingDoNot)
{
    NiftiFile f = counting_file();
    f.two = true, f.slope = 0.1, f.inter = -3;
    const Nifti scaled(f);
    ASSERT_EQ(scaled.status, HN_OK) << hn_last_error();
    EXPECT_EQ(scaled.at(3, 2, 1), (float)(0.1 * 23 - 3));
    for (double slope : {0.0, (double)NAN, 1.0}) {
        f.slope = slope, f.inter = slope == 1 ? 0 : 5;
        const Nifti plain(f);
        ASSERT_EQ(plain.status, HN_OK) << hn_last_error();
        EXPECT_FALSE(plain.v.info.scaled);
        EXPECT_EQ(plain.at(3, 2, 1), 23);
    }
    f.slope = INFINITY;
    EXPECT_HN_FAIL(Nifti(f).status, HN_ERR_FORMAT, "f.nii: values are scaled by inf");
    f.slope = 2, f.inter = NAN;
    EXPECT_HN_FAIL(Nifti(f).status, HN_ERR_FORMAT, "shifted by nan");
}

TEST(Nifti, SkipsExtensionsAndSingleAxes)
{
    NiftiFile f = counting_file({6, 4, 3, 2, 1, 1, 1, 1});
    f.extension = std::string(48, 'x');
    const Nifti got(f);
    ASSERT_EQ(got.status, HN_OK) << hn_last_error();
    EXPECT_EQ(got.v.info.extension_bytes, 48);
    EXPECT_EQ(got.at(3, 2, 1), 23);
}

TEST(Nifti, ReadsAPairByEitherName)
{
    TempDir dir;
    for (bool packed : {false, true}) {
        const std::string end = packed ? ".gz" : "";
        NiftiFile f = counting_file();
        f.pair = true, f.offset = 5;
        /* data that look like a byte order mark, or like gzip */
        const std::string raw = (packed ? "\xef\xbb\xbf.." : "\x1f\x8b...") + f.data;
        write_file(dir / ("a.hdr" + end), packed ? gzip(f.bytes()) : f.bytes());
        write_file(dir / ("a.img" + end), packed ? gzip(raw) : raw);
        for (const char *name : {"a.hdr", "a.img"}) {
            const Nifti got(dir / (name + end));
            ASSERT_EQ(got.status, HN_OK) << hn_last_error();
            EXPECT_TRUE(got.v.info.pair);
            EXPECT_EQ(got.v.info.gzip, packed);
            EXPECT_EQ(got.at(3, 2, 1), 23);
        }
        if (packed) continue;
        write_file(dir / "a.img.gz", gzip(raw));
        EXPECT_HN_FAIL(Nifti(dir / "a.hdr").status, HN_ERR_ARG, "which one");
        std::filesystem::remove(dir / "a.img");
        std::filesystem::remove(dir / "a.img.gz");
        EXPECT_HN_FAIL(Nifti(dir / "a.hdr").status, HN_ERR_IO, "there is neither");
        std::filesystem::remove(dir / "a.hdr");
    }
    NiftiFile f = counting_file();
    f.pair = true;
    EXPECT_HN_FAIL(Nifti(f).status, HN_ERR_FORMAT, "in an .img file beside it");
    f.pair = false;
    write_file(dir / "b.hdr", f.bytes());
    write_file(dir / "b.img", f.data);
    EXPECT_HN_FAIL(Nifti(dir / "b.hdr").status, HN_ERR_FORMAT, "not in an .img");
}

/* ---- place in space ---- */

TEST(NiftiSpace, QformRotatesByHand)
{
    NiftiFile f = counting_file();
    f.pixdim = {-1, 2, 3, 4, 1, 1, 1, 1};
    f.qform = 1;
    f.quatern[2] = std::sqrt(0.5); /* a quarter turn about the third axis: a = d */
    f.q_offset[0] = 10, f.q_offset[1] = 20, f.q_offset[2] = 30;
    const Nifti got(f);
    ASSERT_EQ(got.status, HN_OK) << hn_last_error();
    /* x goes to the front, y to the left, z is turned over by qfac */
    const double want[3][4] = {{0, -3, 0, 10}, {2, 0, 0, 20}, {0, 0, -4, 30}};
    for (int r = 0; r < 3; r++)
        for (int c = 0; c < 4; c++)
            EXPECT_NEAR(got.v.info.affine[r][c], want[r][c], 1e-6) << r << c;
}

TEST(NiftiSpace, SformComesFirstAndUnitsBecomeMillimetres)
{
    NiftiFile f = counting_file();
    f.pixdim = {1, 2, 3, 4, 1, 1, 1, 1};
    f.qform = 1;
    f.sform = 2;
    f.srow[0][0] = 2, f.srow[1][1] = 3, f.srow[2][2] = 4, f.srow[0][3] = -7;
    for (int unit : {0, 1, 2, 3}) {
        f.unit = unit | 8; /* and seconds */
        const double mm = unit == 1 ? 1000 : unit == 3 ? 0.001 : 1;
        const Nifti got(f);
        ASSERT_EQ(got.status, HN_OK) << hn_last_error();
        EXPECT_EQ(got.v.info.affine[0][3], -7 * mm);
        EXPECT_EQ(got.v.info.voxel_mm[2], 4 * mm);
    }
    f.sform = f.qform = 0;
    const Nifti plain(f);
    EXPECT_EQ(plain.v.info.affine[0][3], 0);
    EXPECT_EQ(plain.v.info.affine[1][1], 3e-3);
}

TEST(NiftiSpace, RefusesWhatIsNoPlace)
{
    NiftiFile f = counting_file();
    f.qform = 1, f.quatern[0] = 0.9, f.quatern[1] = 0.9;
    EXPECT_HN_FAIL(Nifti(f).status, HN_ERR_FORMAT, "f.nii: qform");
    f.qform = 0; /* not read then */
    EXPECT_EQ(Nifti(f).status, HN_OK) << hn_last_error();
    f.sform = 1;
    EXPECT_HN_FAIL(Nifti(f).status, HN_ERR_FORMAT, "determinant is 0");
    f.srow[1][2] = NAN;
    EXPECT_HN_FAIL(Nifti(f).status, HN_ERR_FORMAT, "sform: row 1 holds nan");
    f.sform = 0;
    for (double size : {0.0, (double)NAN, (double)INFINITY}) {
        f.pixdim[2] = size;
        EXPECT_HN_FAIL(Nifti(f).status, HN_ERR_FORMAT, "along axis 2");
    }
}

/* ---- damage ---- */

TEST(NiftiDamage, EveryTruncationIsRefusedByName)
{
    for (bool two : {false, true}) {
        NiftiFile f = counting_file();
        f.two = two;
        const std::string whole = f.bytes(), packed = gzip(whole);
        for (size_t n = 0; n < whole.size(); n++) {
            ASSERT_EQ(Nifti("f.nii", std::string(whole, 0, n)).status, HN_ERR_FORMAT) << n;
            ASSERT_NE(std::strstr(hn_last_error(), "f.nii: "), nullptr) << hn_last_error();
        }
        for (size_t n = 0; n < packed.size(); n++) {
            ASSERT_EQ(Nifti("f.nii.gz", std::string(packed, 0, n)).status, HN_ERR_FORMAT) << n;
            ASSERT_NE(std::strstr(hn_last_error(), "f.nii.gz: "), nullptr) << hn_last_error();
        }
        ASSERT_EQ(Nifti("f.nii", whole).status, HN_OK);
        ASSERT_EQ(Nifti("f.nii.gz", packed).status, HN_OK);
    }
}

/* Any byte of the header changed: an error with the file's name, or values inside their array. */
TEST(NiftiDamage, EveryChangedByteIsSafe)
{
    for (bool two : {false, true}) {
        NiftiFile f = counting_file();
        f.two = two, f.qform = 1, f.sform = 1;
        f.srow[0][0] = f.srow[1][1] = f.srow[2][2] = 1;
        const std::string whole = f.bytes();
        for (size_t at = 0; at < f.head_bytes(); at++)
            for (int value : {0, 1, 0x7f, 0x80, 0xff}) {
                std::string s = whole;
                s[at] = (char)value;
                const Nifti got("f.nii", s);
                if (got.status == HN_OK)
                    ASSERT_EQ(got.values().size(), (size_t)got.n());
                else
                    ASSERT_NE(std::strstr(hn_last_error(), "f.nii: "), nullptr) << hn_last_error();
            }
    }
}

TEST(NiftiDamage, NamesWhatIsWrong)
{
    const auto broken = [](auto change) {
        NiftiFile f = counting_file();
        change(f);
        return Nifti(f).status;
    };
    EXPECT_HN_FAIL(broken([](NiftiFile &f) { f.dim[0] = 8; }), HN_ERR_FORMAT, "8 axes");
    EXPECT_HN_FAIL(broken([](NiftiFile &f) { f.dim[0] = 0; }), HN_ERR_FORMAT, "0 axes");
    EXPECT_HN_FAIL(broken([](NiftiFile &f) { f.dim[0] = 2; }), HN_ERR_UNSUPPORTED, "2 axes");
    EXPECT_HN_FAIL(broken([](NiftiFile &f) { f.dim[2] = 0; }), HN_ERR_FORMAT,
                   "axis 2 has length 0");
    EXPECT_HN_FAIL(broken([](NiftiFile &f) { f.dim[3] = -5; }), HN_ERR_FORMAT, "length -5");
    EXPECT_HN_FAIL(broken([](NiftiFile &f) { f.two = true, f.dim[1] = INT64_MAX; }), HN_ERR_FORMAT,
                   "axis 1 has length 9223372036854775807");
    EXPECT_HN_FAIL(broken([](NiftiFile &f) { f.dim = {5, 4, 3, 2, 1, 3, 1, 1}; }),
                   HN_ERR_UNSUPPORTED, "axis 5 has length 3");
    EXPECT_HN_FAIL(broken([](NiftiFile &f) { f.dim = {3, 32767, 32767, 32767, 1, 1, 1, 1}; }),
                   HN_ERR_FORMAT, "more than the limit of 1073741824");
    EXPECT_HN_FAIL(broken([](NiftiFile &f) { f.bits = 16; }), HN_ERR_FORMAT, "uint8 has 8 bits");
    EXPECT_HN_FAIL(broken([](NiftiFile &f) { f.type = 32; }), HN_ERR_UNSUPPORTED, "complex64");
    EXPECT_HN_FAIL(broken([](NiftiFile &f) { f.type = 128; }), HN_ERR_UNSUPPORTED, "RGB24");
    EXPECT_HN_FAIL(broken([](NiftiFile &f) { f.type = 3; }), HN_ERR_FORMAT, "has the number 3");
    EXPECT_HN_FAIL(broken([](NiftiFile &f) { f.magic = "n+7"; }), HN_ERR_FORMAT, "wrong magic");
    EXPECT_HN_FAIL(broken([](NiftiFile &f) { f.magic = std::string(3, '\0'); }), HN_ERR_UNSUPPORTED,
                   "Analyze 7.5");
    for (double at : {0.0, 351.0, 352.5, 1e9, (double)NAN, (double)INFINITY})
        EXPECT_HN_FAIL(broken([at](NiftiFile &f) { f.offset = at; }), HN_ERR_FORMAT, "vox_offset");
    EXPECT_HN_FAIL(broken([](NiftiFile &f) { f.offset = 356; }), HN_ERR_FORMAT,
                   "cut off: 376 bytes, the header promises 380");
    EXPECT_HN_FAIL(broken([](NiftiFile &f) { f.data += std::string(HN_NIFTI_MAX_TAIL + 1, ' '); }),
                   HN_ERR_FORMAT, "behind the data");
    EXPECT_EQ(broken([](NiftiFile &f) { f.data += std::string(100, ' '); }), HN_OK);
}

TEST(NiftiDamage, NamesWrongNamesAndFiles)
{
    TempDir dir;
    const std::string whole = counting_file().bytes();
    EXPECT_HN_FAIL(Nifti("f.mgz", whole).status, HN_ERR_ARG, "ends in .nii, .nii.gz");
    EXPECT_HN_FAIL(Nifti("f.hdr", whole).status, HN_ERR_ARG, "ends in .nii, .nii.gz");
    EXPECT_HN_FAIL(Nifti("f.nii.gz", whole).status, HN_ERR_FORMAT, "f.nii.gz: not gzip data");
    EXPECT_HN_FAIL(Nifti("f.nii", gzip(whole)).status, HN_ERR_FORMAT, "does not end in .gz");
    EXPECT_HN_FAIL(Nifti("f.nii", std::string()).status, HN_ERR_FORMAT, "0 bytes are no NIfTI");
    EXPECT_HN_FAIL(Nifti("f.nii", std::string(400, 'x')).status, HN_ERR_FORMAT, "no NIfTI header");
    EXPECT_HN_FAIL(Nifti(dir / "none.nii").status, HN_ERR_IO, "none.nii");
    EXPECT_HN_FAIL(Nifti("f.nii", whole, -1).status, HN_ERR_ARG, "volume -1");
    EXPECT_HN_FAIL(Nifti("f.nii", whole, 0, 23).status, HN_ERR_FORMAT, "limit of 23");
}

TEST(NiftiDamage, AChecksumBehindTheVolumeIsLookedAt)
{
    const std::string packed = gzip(counting_file({4, 4, 3, 2, 3, 1, 1, 1}).bytes());
    for (int64_t volume = 0; volume < 3; volume++) {
        EXPECT_EQ(Nifti("f.nii.gz", packed, volume).status, HN_OK) << hn_last_error();
        std::string s = packed;
        s[s.size() - 6] ^= 1; /* of the CRC */
        EXPECT_HN_FAIL(Nifti("f.nii.gz", s, volume).status, HN_ERR_FORMAT, "damaged gzip data");
    }
}

/* A header that promises a gigabyte in a small file is refused before memory is taken. */
TEST(NiftiDamage, PromisesAreComparedWithTheFileFirst)
{
    NiftiFile f = counting_file();
    f.dim = {3, 1024, 1024, 1024, 1, 1, 1, 1};
    EXPECT_HN_FAIL(Nifti(f).status, HN_ERR_FORMAT, "cut off: 376 bytes");
    EXPECT_HN_FAIL(Nifti("f.nii.gz", gzip(f.bytes())).status, HN_ERR_FORMAT,
                   "cannot hold the 1073742176 bytes");
    /* and one that promises little, followed by much */
    std::string bomb = gzip(counting_file().bytes() + std::string(HN_NIFTI_MAX_TAIL + 40000, '\0'));
    EXPECT_HN_FAIL(Nifti("f.nii.gz", bomb).status, HN_ERR_FORMAT, "behind the data");
}

TEST(NiftiDamage, EveryFailingAllocationIsReported)
{
    const std::string packed = gzip(counting_file().bytes());
    int failures = 0;
    for (uint64_t nth = 1; nth < 100; nth++) {
        hn_alloc_fail_at(nth);
        const Nifti f("f.nii.gz", packed);
        hn_alloc_fail_at(0);
        if (f.status == HN_OK) break;
        EXPECT_EQ(f.status, HN_ERR_MEMORY) << hn_last_error();
        EXPECT_EQ(f.v.value, nullptr);
        failures++;
    }
    EXPECT_GT(failures, 5);
    EXPECT_LT(failures, 90);
}

/* ---- labels and masks ---- */

TEST(NiftiMask, LabelsAreWholeNumbers)
{
    NiftiFile f;
    f.type = 16, f.bits = 32, f.dim = {3, 1, 2, 2, 1, 1, 1, 1};
    const auto labels_of = [&](std::vector<float> v) {
        f.data.clear();
        for (float e : v) f.add(e);
        const Nifti got(f);
        uint8_t label[4] = {9, 9, 9, 9};
        const hn_status st = hn_nifti_labels(&got.v, "l.nii", label);
        EXPECT_TRUE(st != HN_OK || label[1] == (uint8_t)v[2]); /* turned */
        return st;
    };
    EXPECT_HN_OK(labels_of({0, 1, 4, 255}));
    EXPECT_HN_FAIL(labels_of({0, 0.5f, 1, 2}), HN_ERR_FORMAT, "l.nii: voxel (0, 1, 0) is 0.5");
    EXPECT_HN_FAIL(labels_of({0, 1, -1, 2}), HN_ERR_FORMAT, "voxel (0, 0, 1) is -1");
    EXPECT_HN_FAIL(labels_of({0, 1, 1, 256}), HN_ERR_FORMAT, "voxel (0, 1, 1) is 256");
    EXPECT_HN_FAIL(labels_of({NAN, 1, 1, 2}), HN_ERR_FORMAT, "is nan");
}

TEST(NiftiMask, KeepsPlaceAndValues)
{
    TempDir dir;
    NiftiFile f = counting_file();
    f.big = true, f.unit = 3;
    f.pixdim = {-1, 2, 3, 4, 7, 1, 1, 1};
    f.qform = 1, f.quatern[2] = 0.5, f.q_offset[1] = 5;
    f.sform = 4;
    for (int i = 0; i < 3; i++) f.srow[i][i] = -1 - i, f.srow[i][3] = 10 * i;
    const Nifti of(f);
    ASSERT_EQ(of.status, HN_OK) << hn_last_error();
    std::vector<uint8_t> mask(24);
    for (size_t i = 0; i < 24; i++) mask[i] = (uint8_t)(i * 11);
    for (const char *name : {"m.nii", "m.nii.gz"}) {
        ASSERT_HN_OK(hn_nifti_save_mask((dir / name).c_str(), &of.v.info, mask.data()));
        const std::string bytes = read_file(dir / name);
        ASSERT_HN_OK(hn_nifti_save_mask((dir / name).c_str(), &of.v.info, mask.data()));
        EXPECT_EQ(read_file(dir / name), bytes);
        const Nifti got(dir / name);
        ASSERT_EQ(got.status, HN_OK) << hn_last_error();
        EXPECT_EQ(got.values(), std::vector<float>(mask.begin(), mask.end()));
        EXPECT_STREQ(got.v.info.type, "uint8");
        EXPECT_EQ(std::memcmp(&got.v.info.space, &of.v.info.space, sizeof(hn_nifti_space)), 0);
        EXPECT_EQ(std::memcmp(got.v.info.affine, of.v.info.affine, sizeof of.v.info.affine), 0);
    }
    EXPECT_EQ(read_file(dir / "m.nii").size(), 352u + 24);
}

TEST(NiftiMask, FailsWithoutTouchingWhatIsThere)
{
    TempDir dir;
    const Nifti of(counting_file());
    std::vector<uint8_t> mask(24);
    EXPECT_HN_FAIL(hn_nifti_save_mask((dir / "m.hdr").c_str(), &of.v.info, mask.data()), HN_ERR_ARG,
                   "ends in .nii");
    EXPECT_HN_FAIL(hn_nifti_save_mask((dir / "no/m.nii").c_str(), &of.v.info, mask.data()),
                   HN_ERR_IO, "m.nii");
    hn_nifti_info wrong = of.v.info;
    wrong.ny = 0;
    EXPECT_HN_FAIL(hn_nifti_save_mask((dir / "m.nii").c_str(), &wrong, mask.data()), HN_ERR_SHAPE,
                   "4 x 0 x 2");
    write_file(dir / "m.nii.gz", "old");
    int failures = 0;
    for (uint64_t nth = 1; nth < 50; nth++, failures++) {
        hn_alloc_fail_at(nth);
        const hn_status st =
            hn_nifti_save_mask((dir / "m.nii.gz").c_str(), &of.v.info, mask.data());
        hn_alloc_fail_at(0);
        if (st == HN_OK) break;
        EXPECT_EQ(st, HN_ERR_MEMORY) << hn_last_error();
        /* the folder is flushed after the name has changed hands */
        const bool old = read_file(dir / "m.nii.gz") == "old";
        EXPECT_TRUE(old || Nifti(dir / "m.nii.gz").status == HN_OK);
    }
    EXPECT_GT(failures, 1);
    EXPECT_EQ(Nifti(dir / "m.nii.gz").status, HN_OK);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.str()), {}), 1);
}

} // namespace
