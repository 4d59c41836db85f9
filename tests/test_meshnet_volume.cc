/* A real volume through a real network: meshnet5 on the MNI T1 gives the stored segmentation. From
 * the NIfTI file over intensities, windows and convolutions to mask, Dice and a NIfTI file again.
 */
#include <algorithm>
#include <array>

#include "hn_test.h"
#include "kernels/conv/conv3d.h"
#include "runtime/data/seg_metrics.h"
#include "runtime/data/volume_window.h"
#include "runtime/data/volumes.h"
#include "runtime/file/safetensors.h"

namespace {

using Size = std::array<int64_t, 3>;

/* The layers of meshnet5.arch.json: 3 x 3 x 3, relu; at last 1 x 1 x 1. Zero padding keeps sizes.
 */
const int64_t kDilation[] = {1, 2, 4, 8, 16, 8, 4, 2, 1, 0};
enum {
    REACH = 46 /* their sum: voxels that a voxel of the result sees on each side */,
    CLASSES = 3
};

class MeshNet {
    hn_st_file *f_ = nullptr;
    std::vector<float> read(const std::string &name, hn_st_tensor *out = nullptr) const
    {
        const hn_st_tensor *t = hn_st_find(f_, name.c_str());
        std::vector<float> v((size_t)hn_st_elements(t));
        std::memcpy(v.data(), t->data, t->n_bytes);
        if (out) *out = *t;
        return v;
    }

  public:
    explicit MeshNet(const std::string &path) { EXPECT_HN_OK(hn_st_open(path.c_str(), &f_)); }
    MeshNet(const MeshNet &) = delete;
    ~MeshNet() { hn_st_close(f_); }

    /* x [size] -> logits [size, 3] */
    std::vector<float> logits(std::vector<float> x, const Size &size) const
    {
        for (size_t l = 0; l < std::size(kDilation); l++) {
            const std::string name = "conv" + std::to_string(l);
            hn_st_tensor t;
            const auto file = read(name + ".weight", &t), bias = read(name + ".bias");
            const int64_t out = t.dim[0], in = t.dim[1], k = t.dim[2], taps = k * k * k;
            std::vector<float> w(file.size()), y(x.size() / (size_t)in * (size_t)out);
            for (int64_t i = 0; i < out * in * taps; i++) /* [out, in, taps] -> [out, taps, in] */
                w[(size_t)((i / taps / in * taps + i % taps) * in + i / taps % in)] =
                    file[(size_t)i];
            hn_conv3d_args a = {};
            a.x = x.data(), a.w = w.data(), a.bias = bias.data(), a.y = y.data();
            a.shape = {
                1, size[0], size[1], size[2], in,           out,
                k, k,       k,       1,       kDilation[l], std::max<int64_t>(kDilation[l], 1)};
            a.ld_x = in, a.ld_w = taps * in, a.ld_y = out;
            a.dtype = a.bias_dtype = HN_F32;
            std::vector<double> scratch(hn_conv3d_fwd_fast_scratch(&a) / sizeof(double) + 1);
            EXPECT_HN_OK(hn_conv3d_fwd_fast(&a, scratch.data()));
            for (float &v : y)
                if (k == 3 && !(v > 0)) v = 0;
            x.swap(y);
        }
        return x;
    }
};

class MeshNetOnMni : public testing::Test {
  protected:
    hn_volumes set = {};
    hn_nifti want = {};
    std::string folder;
    void open(const std::string &nifti, const std::string &meshnet)
    {
        const std::string image = nifti + "/mni_icbm152_t1.nii.gz",
                          labels = nifti + "/mni_icbm152_tissue_labels.nii.gz",
                          stored = meshnet + "/meshnet5_on_mni_t1.nii.gz";
        hn_volume_options o = {};
        o.data = image.c_str(), o.labels = labels.c_str();
        o.intensity = HN_INTENSITY_MINMAX;
        ASSERT_HN_OK(hn_volumes_open(&o, &set));
        ASSERT_HN_OK(hn_nifti_read(stored.c_str(), 0, 0, &want));
        folder = meshnet;
    }
    ~MeshNetOnMni() override
    {
        hn_volumes_free(&set);
        hn_nifti_free(&want);
    }
    const hn_volume &volume() const { return set.volume[0]; }
    std::vector<float> window(const hn_windows &w, int64_t i) const
    {
        std::vector<float> x((size_t)(w.size[0] * w.size[1] * w.size[2]));
        hn_windows_cut(&w, i, volume().value, 0, x.data());
        return MeshNet(folder + "/meshnet5.safetensors")
            .logits(x, {w.size[0], w.size[1], w.size[2]});
    }
};

/* A window in the middle: what lies REACH voxels inside of it does not see its border. */
TEST_F(MeshNetOnMni, AWindowHasTheStoredClassesInItsMiddle)
{
    HN_NEED_DATA(nifti, "nifti");
    HN_NEED_DATA(meshnet, "meshnet-brain");
    open(nifti, meshnet);
    const int64_t inner = 16, side = inner + 2 * REACH;
    const Size size = {side, side, side};
    hn_windows w;
    ASSERT_HN_OK(hn_windows_plan(volume().size, size.data(), 0.7, &w));
    const int64_t i = (w.along[0] / 2 * w.along[1] + w.along[1] / 2) * w.along[2] + w.along[2] / 2;
    int64_t at[3], different = 0, seen[CLASSES] = {};
    hn_windows_at(&w, i, at);
    const auto logits = window(w, i);
    for (int64_t k = 0; k < inner * inner * inner; k++) {
        const int64_t x = REACH + k / inner / inner, y = REACH + k / inner % inner,
                      z = REACH + k % inner;
        const float *l = &logits[(size_t)(((x * side + y) * side + z) * CLASSES)];
        const int64_t got = std::max_element(l, l + CLASSES) - l;
        const float stored =
            want.value[((at[0] + x) * want.info.ny + at[1] + y) * want.info.nz + at[2] + z];
        different += got != (int64_t)stored;
        seen[got]++;
    }
    EXPECT_LE(different, 2); /* sums in another order than the stored one's */
    EXPECT_GT(seen[1], 100);
    EXPECT_GT(seen[2], 100);
}

/* All of it, padded to 256 x 256 x 256 as the network's demo has it: 12 s of processor time. */
TEST_F(MeshNetOnMni, TheWholeVolumeIsTheStoredOne)
{
    HN_NEED_DATA(nifti, "nifti");
    HN_NEED_DATA(meshnet, "meshnet-brain");
    if (std::getenv("HONE_TEST_LONG") == nullptr) GTEST_SKIP() << "long: set HONE_TEST_LONG";
    open(nifti, meshnet);
    const hn_volume &v = volume();
    const Size cube = {256, 256, 256};
    hn_windows w;
    ASSERT_HN_OK(hn_windows_plan(v.size, cube.data(), 0, &w));
    ASSERT_EQ(w.count, 1);
    hn_blend *b = nullptr;
    ASSERT_HN_OK(hn_blend_new(&w, CLASSES, false, &b));
    hn_blend_add(b, 0, window(w, 0).data());
    std::vector<uint8_t> mask((size_t)hn_volume_voxels(&v));
    ASSERT_HN_OK(hn_blend_argmax(b, mask.data()));
    hn_blend_free(b);

    TempDir dir;
    ASSERT_HN_OK(hn_nifti_save_mask((dir / "m.nii.gz").c_str(), &v.info, mask.data()));
    hn_nifti got = {};
    ASSERT_HN_OK(hn_nifti_read((dir / "m.nii.gz").c_str(), 0, 0, &got));
    int64_t different = 0;
    for (size_t i = 0; i < mask.size(); i++) different += got.value[i] != want.value[i];
    hn_nifti_free(&got);
    EXPECT_LE(different, 20); /* of 8,675,641; none when this was written */

    const uint8_t tissue[CLASSES] = {0, 2, 1}; /* the network has white matter first */
    for (auto &m : mask) m = tissue[m];
    hn_seg_score s[CLASSES];
    ASSERT_HN_OK(hn_seg_metrics(mask.data(), v.label, v.size, v.info.voxel_mm, CLASSES, s));
    EXPECT_NEAR(s[1].dice, 0.797, 0.002); /* grey */
    EXPECT_NEAR(s[2].dice, 0.863, 0.002); /* white */
    EXPECT_NEAR(s[1].hd95, std::sqrt(14.0), 0.5);
    EXPECT_NEAR(s[2].hd95, std::sqrt(10.0), 0.5);
}

} // namespace
