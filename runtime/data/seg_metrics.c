#include "runtime/data/seg_metrics.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/nifti.h" /* HN_NIFTI_MAX_SIDE */

/* Of a voxel: squares of distances, and their differences by it, stay far inside fp64. */
static const double LEAST_MM = 1e-6, MOST_MM = 1e6;

hn_status hn_seg_check_mm(const double voxel_mm[3])
{
    for (int a = 0; a < 3; a++)
        if (!(voxel_mm[a] >= LEAST_MM && voxel_mm[a] <= MOST_MM))
            return HN_FAIL(HN_ERR_ARG, "voxels of %g mm along axis %d, %g to %g", voxel_mm[a], a,
                           LEAST_MM, MOST_MM);
    return HN_OK;
}

static hn_status check(const int64_t size[3])
{
    for (int a = 0; a < 3; a++)
        if (size[a] < 1 || size[a] > HN_NIFTI_MAX_SIDE)
            return HN_FAIL(HN_ERR_SHAPE, "axis %d of a mask has length %" PRId64, a, size[a]);
    return HN_OK;
}

/* ---- Dice ---- */

hn_status hn_seg_dice(const uint8_t *got, const uint8_t *want, const int64_t size[3], int n_classes,
                      hn_seg_score *score)
{
    int64_t a[256] = {0}, b[256] = {0}, both[256] = {0};
    HN_TRY(check(size));
    if (n_classes < 1 || n_classes > 256)
        return HN_FAIL(HN_ERR_ARG, "%d classes of voxels: 1 to 256", n_classes);
    const int64_t n = size[0] * size[1] * size[2];
    for (int64_t i = 0; i < n; i++) {
        a[got[i]]++;
        b[want[i]]++;
        both[got[i]] += got[i] == want[i];
    }
    for (int c = 0; c < n_classes; c++) {
        const int64_t all = a[c] + b[c];
        score[c] = (hn_seg_score){.got = a[c], .want = b[c], .both = both[c], .hd95 = NAN};
        score[c].dice = all > 0 ? 2 * (double)both[c] / (double)all : 1;
    }
    return HN_OK;
}

/* ---- distance transform ---- */

/* Squared distances along one line: out[i] = min over j of f[j] + (mm (i - j))^2, the lower
 * envelope of the parabolas rooted at j. Those of infinite f are left out.
 *
 * f     in [n]
 * root  [n] scratch: whose parabola
 * from  [n + 1] scratch: where it begins to be the lowest
 * out   [n], does not overlap f */
static void envelope(const double *f, int64_t n, double mm2, int32_t *root, double *from,
                     double *out)
{
    int64_t k = -1;
    for (int64_t j = 0; j < n; j++) {
        if (isinf(f[j])) continue;
        double at = -INFINITY;
        while (k >= 0) {
            const int64_t r = root[k];
            at = ((f[j] - f[r]) / mm2 + (double)(j * j - r * r)) / (double)(2 * (j - r));
            if (at > from[k]) break;
            k--;
        }
        if (k < 0) at = -INFINITY;
        root[++k] = (int32_t)j;
        from[k] = at;
    }
    const int64_t last = k;
    k = 0;
    for (int64_t i = 0; i < n; i++) {
        while (k < last && from[k + 1] < (double)i) k++;
        const double d = last < 0 ? 0 : (double)(i - root[k]);
        out[i] = last < 0 ? INFINITY : f[root[k]] + mm2 * d * d;
    }
}

/* Line l of an axis: where it begins. */
static int64_t line_start(const int64_t size[3], int axis, int64_t l)
{
    const int64_t h = size[1], w = size[2];
    return axis == 2 ? l * w : axis == 1 ? (l / w) * h * w + l % w : l;
}

/* out      in/out, one axis after the other */
static hn_status transform_axis(double *out, const int64_t size[3], int axis, double mm)
{
    const int64_t n = size[axis], lines = size[0] * size[1] * size[2] / n;
    const int64_t stride = axis == 2 ? 1 : axis == 1 ? size[2] : size[1] * size[2];
    int64_t failed = 0;
#pragma omp parallel reduction(+ : failed) if (lines * n > 65536)
    {
        double *room = hn_malloc(((size_t)n * 3 + 1) * sizeof *room);
        int32_t *root = hn_malloc((size_t)n * sizeof *root);
        failed = room == NULL || root == NULL;
#pragma omp for
        for (int64_t l = 0; l < lines; l++) {
            if (failed > 0) continue;
            double *line = out + line_start(size, axis, l);
            double *f = room, *to = room + n, *from = room + 2 * n;
            for (int64_t i = 0; i < n; i++) f[i] = line[i * stride];
            envelope(f, n, mm * mm, root, from, to);
            for (int64_t i = 0; i < n; i++) line[i * stride] = to[i];
        }
        hn_free(room);
        hn_free(root);
    }
    return failed == 0 ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a line of %" PRId64, n);
}

hn_status hn_distance_transform(const uint8_t *set, const int64_t size[3], const double voxel_mm[3],
                                double *out)
{
    HN_TRY(check(size));
    HN_TRY(hn_seg_check_mm(voxel_mm));
    const int64_t n = size[0] * size[1] * size[2];
    for (int64_t i = 0; i < n; i++) out[i] = set[i] != 0 ? 0 : INFINITY;
    for (int axis = 2; axis >= 0; axis--) HN_TRY(transform_axis(out, size, axis, voxel_mm[axis]));
    return HN_OK;
}

/* ---- surfaces ---- */

typedef struct {
    const uint8_t *mask;
    const int64_t *size;
    int label;
} class_mask;

static bool inside(const class_mask *m, int64_t x, int64_t y, int64_t z)
{
    const int64_t *n = m->size;
    return x >= 0 && x < n[0] && y >= 0 && y < n[1] && z >= 0 && z < n[2] &&
           m->mask[(x * n[1] + y) * n[2] + z] == m->label;
}

static bool on_surface(const class_mask *m, int64_t x, int64_t y, int64_t z)
{
    return inside(m, x, y, z) &&
           !(inside(m, x - 1, y, z) && inside(m, x + 1, y, z) && inside(m, x, y - 1, z) &&
             inside(m, x, y + 1, z) && inside(m, x, y, z - 1) && inside(m, x, y, z + 1));
}

typedef struct {
    int64_t at[3], size[3];
} box;

/* The smallest box around the class in both masks: no nearest voxel is outside of it. */
static box box_of(const uint8_t *got, const uint8_t *want, const int64_t size[3], int label)
{
    int64_t low[3] = {size[0], size[1], size[2]}, high[3] = {-1, -1, -1};
    box b;
    for (int64_t x = 0, i = 0; x < size[0]; x++)
        for (int64_t y = 0; y < size[1]; y++)
            for (int64_t z = 0; z < size[2]; z++, i++) {
                if (got[i] != label && want[i] != label) continue;
                const int64_t place[3] = {x, y, z};
                for (int a = 0; a < 3; a++) {
                    if (place[a] < low[a]) low[a] = place[a];
                    if (place[a] > high[a]) high[a] = place[a];
                }
            }
    for (int a = 0; a < 3; a++) {
        b.at[a] = low[a];
        b.size[a] = high[a] + 1 - low[a];
    }
    return b;
}

/* surface  out [box] */
static void mark_surface(const class_mask *m, const box *b, uint8_t *surface)
{
    const int64_t *n = b->size;
#pragma omp parallel for if (n[0] * n[1] * n[2] > 65536)
    for (int64_t x = 0; x < n[0]; x++)
        for (int64_t y = 0; y < n[1]; y++)
            for (int64_t z = 0; z < n[2]; z++)
                surface[(x * n[1] + y) * n[2] + z] =
                    on_surface(m, b->at[0] + x, b->at[1] + y, b->at[2] + z);
}

static int rising(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* numpy's percentile. v is sorted. */
static double percentile(double *v, int64_t n, double share)
{
    qsort(v, (size_t)n, sizeof *v, rising);
    const double place = share * (double)(n - 1), low = floor(place);
    const int64_t i = (int64_t)low;
    return i + 1 < n ? v[i] + (place - low) * (v[i + 1] - v[i]) : v[n - 1];
}

/* Distances from the surface `of` to the surface `to`, behind the n that are there. */
static hn_status add_distances(const uint8_t *of, const uint8_t *to, const box *b,
                               const double voxel_mm[3], double *room, double *distance, int64_t *n)
{
    const int64_t voxels = b->size[0] * b->size[1] * b->size[2];
    HN_TRY(hn_distance_transform(to, b->size, voxel_mm, room));
    for (int64_t i = 0; i < voxels; i++)
        if (of[i] != 0) distance[(*n)++] = sqrt(room[i]);
    return HN_OK;
}

static hn_status surface_hd95(const class_mask *got, const class_mask *want,
                              const double voxel_mm[3], double *out)
{
    const box b = box_of(got->mask, want->mask, got->size, got->label);
    const size_t voxels = (size_t)(b.size[0] * b.size[1] * b.size[2]);
    hn_status st = HN_OK;
    int64_t n = 0, points = 0;
    uint8_t *surface = hn_malloc(2 * voxels);
    double *room = hn_malloc(voxels * sizeof *room), *distance = NULL;
    if (surface == NULL || room == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for the surfaces in %zu voxels", voxels);
        goto done;
    }
    mark_surface(got, &b, surface);
    mark_surface(want, &b, surface + voxels);
    for (size_t i = 0; i < 2 * voxels; i++) points += surface[i];
    distance = hn_malloc((size_t)points * sizeof *distance);
    if (distance == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " distances", points);
        goto done;
    }
    HN_TRY_GOTO(st, add_distances(surface, surface + voxels, &b, voxel_mm, room, distance, &n),
                done);
    HN_TRY_GOTO(st, add_distances(surface + voxels, surface, &b, voxel_mm, room, distance, &n),
                done);
    *out = percentile(distance, n, 0.95);

done:
    hn_free(surface);
    hn_free(room);
    hn_free(distance);
    return st;
}

hn_status hn_seg_metrics(const uint8_t *got, const uint8_t *want, const int64_t size[3],
                         const double voxel_mm[3], int n_classes, hn_seg_score *score)
{
    HN_TRY(check(size));
    HN_TRY(hn_seg_check_mm(voxel_mm));
    HN_TRY(hn_seg_dice(got, want, size, n_classes, score));
    double diagonal = 0;
    for (int a = 0; a < 3; a++) {
        const double side = (double)size[a] * voxel_mm[a];
        diagonal += side * side;
    }
    for (int c = 1; c < n_classes; c++) {
        const class_mask a = {got, size, c}, b = {want, size, c};
        if (score[c].got == 0 || score[c].want == 0)
            score[c].hd95 = score[c].got == score[c].want ? 0 : sqrt(diagonal);
        else
            HN_TRY(surface_hd95(&a, &b, voxel_mm, &score[c].hd95));
    }
    return HN_OK;
}
