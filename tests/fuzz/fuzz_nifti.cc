/* Any bytes as a NIfTI file: the first byte chooses plain or gzip, and the volume. What is accepted
 * must have values in their bounds (sanitizers look), the same ones twice, and a place in space. */
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "runtime/data/nifti.h"

namespace {

constexpr int64_t kMaxVoxels = 1 << 16;

void check(bool ok)
{
    if (!ok) std::abort();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 1) return 0;
    const char *name = data[0] & 1 ? "fuzz.nii.gz" : "fuzz.nii";
    const int64_t volume = data[0] >> 1;
    hn_nifti a = {}, b = {};
    if (hn_nifti_read_memory(name, data + 1, n - 1, volume, kMaxVoxels, &a) != HN_OK) {
        check(std::strstr(hn_last_error(), name) != nullptr);
        check(a.value == nullptr);
        return 0;
    }
    const hn_nifti_info &i = a.info;
    const size_t voxels = (size_t)(i.nx * i.ny * i.nz);
    check(i.nx >= 1 && i.ny >= 1 && i.nz >= 1 && voxels <= kMaxVoxels && volume < i.volumes);
    for (int r = 0; r < 3; r++) {
        check(std::isfinite(i.voxel_mm[r]) && i.voxel_mm[r] >= 0);
        for (double v : i.affine[r]) check(std::isfinite(v));
    }
    check(hn_nifti_read_memory(name, data + 1, n - 1, volume, kMaxVoxels, &b) == HN_OK);
    check(std::memcmp(a.value, b.value, voxels * sizeof *a.value) == 0);
    std::vector<uint8_t> label(voxels);
    if (hn_nifti_labels(&a, name, label.data()) == HN_OK)
        for (size_t k = 0; k < voxels; k++) check((float)label[k] == a.value[k]);
    hn_nifti_free(&a);
    hn_nifti_free(&b);
    return 0;
}
