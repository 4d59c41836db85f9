/* A real volume through a real network: meshnet5 on the MNI T1 gives the stored segmentation. From
 * the NIfTI file over intensities, windows and convolutions to mask, Dice and a NIfTI file again.
 */
#include <algorithm>
#include <array>

#include "engine_test.h"
#include "runtime/base/json.h"
#include "runtime/data/seg_metrics.h"
#include "runtime/data/volume_window.h"
#include "runtime/data/volumes.h"
#include "runtime/file/safetensors.h"
#include "runtime/train/segmenter_job.h"

namespace {

using Size = std::array<int64_t, 3>;

enum {
    REACH = 46, /* sum of meshnet5's dilations: voxels that a voxel sees on each side */
    CLASSES = 3
};

/* meshnet5 with its weights, for windows of one size. */
class MeshNet {
    hn_device *device_ = nullptr;
    hn_seg_config config_ = {};
    hn_segmenter_job job_ = {};
    hn_engine *e_ = nullptr;

    void read_config(const std::string &path)
    {
        json_t *arch = nullptr;
        ASSERT_HN_OK(hn_json_load(path.c_str(), &arch));
        EXPECT_HN_OK(hn_seg_config_arch(arch, path.c_str(), 1, &config_));
        json_decref(arch);
    }
    void read_weights(const std::string &path)
    {
        hn_st_file *f = nullptr;
        ASSERT_HN_OK(hn_st_open(path.c_str(), &f));
        hn_params *p = hn_engine_params(e_);
        for (int64_t i = 0; i < hn_params_count(p); i++) {
            const hn_param *q = hn_params_at(p, i);
            const hn_st_tensor *t = hn_st_find(f, q->name);
            ASSERT_NE(t, nullptr) << q->name;
            std::vector<float> v((size_t)hn_param_values(q));
            ASSERT_EQ(t->n_bytes, v.size() * sizeof(float));
            std::memcpy(v.data(), t->data, t->n_bytes);
            EXPECT_HN_OK(hn_param_set(q, v.data()));
        }
        hn_st_close(f);
    }

  public:
    MeshNet(const std::string &folder, const Size &window)
    {
        hn_segmenter_options o = {};
        hn_engine_options e = {};
        read_config(folder + "/meshnet5.arch.json");
        EXPECT_HN_OK(hn_device_open(test_device(), &device_));
        o.config = &config_;
        std::copy(window.begin(), window.end(), o.window);
        o.dtype = e.dtype = HN_F32;
        hn_segmenter_job_init(&job_, &o);
        e.device = device_, e.executor = test_executor(), e.job = &job_.job;
        EXPECT_HN_OK(hn_engine_new(&e, &e_));
        EXPECT_HN_OK(hn_engine_allocate(e_));
        read_weights(folder + "/meshnet5.safetensors");
    }
    MeshNet(const MeshNet &) = delete;
    ~MeshNet()
    {
        hn_engine_free(e_);
        hn_device_close(device_);
    }
    std::vector<uint8_t> classes(const float *value, const Size &size) const
    {
        const hn_segmenter_blend how = {}; /* zeros around, as in the network */
        std::vector<uint8_t> mask((size_t)(size[0] * size[1] * size[2]));
        EXPECT_HN_OK(hn_segmenter_volume(&job_, e_, value, size.data(), &how, mask.data()));
        return mask;
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
    std::vector<float> cut((size_t)(side * side * side));
    hn_windows_cut(&w, i, volume().value, 1, 0, cut.data());
    int64_t at[3], different = 0, seen[CLASSES] = {};
    hn_windows_at(&w, i, at);
    const auto got = MeshNet(folder, size).classes(cut.data(), size);
    for (int64_t k = 0; k < inner * inner * inner; k++) {
        const int64_t x = REACH + k / inner / inner, y = REACH + k / inner % inner,
                      z = REACH + k % inner;
        const uint8_t label = got[(size_t)((x * side + y) * side + z)];
        const float stored =
            want.value[((at[0] + x) * want.info.ny + at[1] + y) * want.info.nz + at[2] + z];
        different += label != (int)stored;
        seen[label]++;
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
    const Size cube = {256, 256, 256}, size = {v.size[0], v.size[1], v.size[2]};
    std::vector<uint8_t> mask = MeshNet(folder, cube).classes(v.value, size);

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
