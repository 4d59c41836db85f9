#include "runtime/data/volume_window.h"

#include <inttypes.h>
#include <math.h>

#include "runtime/base/alloc.h"
#include "runtime/data/nifti.h" /* HN_NIFTI_MAX_SIDE */

/* ---- places ---- */

hn_status hn_windows_plan(const int64_t volume[3], const int64_t size[3], double overlap,
                          hn_windows *out)
{
    hn_windows w = {.count = 1};
    if (!(overlap >= 0 && overlap < 1))
        return HN_FAIL(HN_ERR_ARG, "windows that overlap by %g: from 0 to below 1", overlap);
    for (int a = 0; a < 3; a++) {
        const int64_t n = volume[a], s = size[a];
        if (n < 1 || s < 1 || n > HN_NIFTI_MAX_SIDE || s > HN_NIFTI_MAX_SIDE)
            return HN_FAIL(HN_ERR_SHAPE,
                           "axis %d: windows of %" PRId64 " voxels in a volume of %" PRId64, a, s,
                           n);
        w.volume[a] = n;
        w.size[a] = s;
        w.step[a] = (int64_t)floor((double)s * (1 - overlap));
        if (w.step[a] < 1) w.step[a] = 1;
        w.along[a] = s >= n ? 1 : 1 + (n - s + w.step[a] - 1) / w.step[a];
        w.count *= w.along[a];
    }
    *out = w;
    return HN_OK;
}

void hn_windows_at(const hn_windows *w, int64_t i, int64_t at[3])
{
    const int64_t number[3] = {i / w->along[2] / w->along[1], i / w->along[2] % w->along[1],
                               i % w->along[2]};
    for (int a = 0; a < 3; a++) {
        const int64_t last = w->volume[a] - w->size[a];
        at[a] = number[a] * w->step[a];
        if (last < 0)
            at[a] = -(-last / 2);
        else if (at[a] > last)
            at[a] = last;
    }
}

void hn_windows_cut(const hn_windows *w, int64_t i, const float *value, int64_t channels, float pad,
                    float *out)
{
    const int64_t *n = w->volume, *s = w->size;
    int64_t at[3];
    hn_windows_at(w, i, at);
#pragma omp parallel for if (s[0] * s[1] * s[2] > 65536)
    for (int64_t x = 0; x < s[0]; x++)
        for (int64_t y = 0; y < s[1]; y++) {
            const int64_t vx = at[0] + x, vy = at[1] + y;
            const bool line = vx >= 0 && vx < n[0] && vy >= 0 && vy < n[1];
            for (int64_t z = 0; z < s[2]; z++) {
                const int64_t vz = at[2] + z;
                const bool inside = line && vz >= 0 && vz < n[2];
                const float *const from =
                    value + (inside ? ((vx * n[1] + vy) * n[2] + vz) * channels : 0);
                float *const to = out + ((x * s[1] + y) * s[2] + z) * channels;
                for (int64_t c = 0; c < channels; c++) to[c] = inside ? from[c] : pad;
            }
        }
}

/* ---- blending ---- */

struct hn_blend {
    hn_windows w;
    int classes;
    float *weight[3]; /* [size] along each axis; NULL: 1 */
    float *sum;       /* [volume, classes] */
    float *total;     /* [volume] of the weights */
};

static hn_status make_weights(hn_blend *b)
{
    for (int a = 0; a < 3; a++) {
        const int64_t n = b->w.size[a];
        const double middle = (double)(n - 1) / 2, sigma = (double)n / 8;
        b->weight[a] = hn_malloc((size_t)n * sizeof **b->weight);
        if (b->weight[a] == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for weights");
        for (int64_t i = 0; i < n; i++) {
            const double d = ((double)i - middle) / sigma;
            b->weight[a][i] = (float)exp(-d * d / 2);
        }
    }
    return HN_OK;
}

hn_status hn_blend_new(const hn_windows *w, int classes, bool gaussian, hn_blend **out)
{
    if (classes < 1 || classes > 256)
        return HN_FAIL(HN_ERR_ARG, "%d classes of voxels: 1 to 256", classes);
    hn_blend *b = hn_calloc(1, sizeof *b);
    if (b == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes to blend windows", sizeof *b);
    b->w = *w;
    b->classes = classes;
    const size_t n = (size_t)(w->volume[0] * w->volume[1] * w->volume[2]);
    hn_status st = HN_OK;
    b->sum = hn_calloc(n, (size_t)classes * sizeof *b->sum);
    b->total = hn_calloc(n, sizeof *b->total);
    if (b->sum == NULL || b->total == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for the logits of %zu voxels", n);
    if (st == HN_OK && gaussian) st = make_weights(b);
    if (st == HN_OK)
        *out = b;
    else
        hn_blend_free(b);
    return st;
}

void hn_blend_free(hn_blend *b)
{
    if (b == NULL) return;
    for (int a = 0; a < 3; a++) hn_free(b->weight[a]);
    hn_free(b->sum);
    hn_free(b->total);
    hn_free(b);
}

static float weight_at(const hn_blend *b, int64_t x, int64_t y, int64_t z)
{
    if (b->weight[0] == NULL) return 1;
    const float v = b->weight[0][x] * b->weight[1][y] * b->weight[2][z];
    return v > 1e-3f ? v : 1e-3f;
}

/* One plane of a window. */
static void add_plane(hn_blend *b, const int64_t at[3], int64_t x, const float *logits)
{
    const int64_t *n = b->w.volume, *s = b->w.size, classes = b->classes;
    const int64_t vx = at[0] + x;
    if (vx < 0 || vx >= n[0]) return;
    for (int64_t y = 0; y < s[1]; y++) {
        const int64_t vy = at[1] + y;
        if (vy < 0 || vy >= n[1]) continue;
        for (int64_t z = 0; z < s[2]; z++) {
            const int64_t vz = at[2] + z, voxel = (vx * n[1] + vy) * n[2] + vz;
            if (vz < 0 || vz >= n[2]) continue;
            const float weight = weight_at(b, x, y, z);
            const float *from = logits + ((x * s[1] + y) * s[2] + z) * classes;
            b->total[voxel] += weight;
            for (int64_t c = 0; c < classes; c++) b->sum[voxel * classes + c] += weight * from[c];
        }
    }
}

/* A voxel is in one plane of the window only: planes may be added side by side. */
void hn_blend_add(hn_blend *b, int64_t i, const float *logits)
{
    int64_t at[3];
    hn_windows_at(&b->w, i, at);
#pragma omp parallel for if (b->w.size[0] * b->w.size[1] * b->w.size[2] > 65536)
    for (int64_t x = 0; x < b->w.size[0]; x++) add_plane(b, at, x, logits);
}

static int64_t voxels(const hn_blend *b)
{
    return b->w.volume[0] * b->w.volume[1] * b->w.volume[2];
}

static hn_status check_seen(const hn_blend *b)
{
    const int64_t n = voxels(b);
    for (int64_t i = 0; i < n; i++)
        if (!(b->total[i] > 0))
            return HN_FAIL(HN_ERR_ARG, "voxel %" PRId64 " is in no window that was added", i);
    return HN_OK;
}

hn_status hn_blend_argmax(const hn_blend *b, uint8_t *mask)
{
    const int64_t n = voxels(b), classes = b->classes;
    int64_t bad = 0;
    HN_TRY(check_seen(b));
#pragma omp parallel for reduction(+ : bad) if (n > 65536)
    for (int64_t i = 0; i < n; i++) {
        const float *sum = b->sum + i * classes; /* the weight is the same for all classes */
        int64_t best = 0;
        for (int64_t c = 0; c < classes; c++) {
            bad += isnan(sum[c]) != 0;
            if (sum[c] > sum[best]) best = c;
        }
        mask[i] = (uint8_t)best;
    }
    return bad == 0 ? HN_OK : HN_FAIL(HN_ERR_NUMERIC, "%" PRId64 " logits of voxels are NaN", bad);
}

hn_status hn_blend_logits(const hn_blend *b, float *logits)
{
    const int64_t n = voxels(b), classes = b->classes;
    HN_TRY(check_seen(b));
#pragma omp parallel for if (n > 65536)
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < classes; c++)
            logits[i * classes + c] = b->sum[i * classes + c] / b->total[i];
    return HN_OK;
}
