/* Pieces of images in any order, each with sums of its own, which are added in order; then the
 * gradient, voxel by voxel. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/loss/seg_sums.h"
#include "runtime/base/check.h"
#include "runtime/base/multiversion.h"
#include "runtime/base/vecmath.h"

enum { PIECE = 4096, COST = 64 }; /* voxels; what one is worth in simple operations */

static int64_t pieces_of(const hn_seg_loss_args *a) { return (a->voxels + PIECE - 1) / PIECE; }

size_t hn_seg_loss_fast_scratch(const hn_seg_loss_args *a)
{
    return (size_t)(a->images * pieces_of(a) * HN_SEG_SUMS) * sizeof(double) +
           (size_t)a->images * sizeof(hn_seg_slopes);
}

typedef struct {
    float z[HN_SEG_CLASSES], p[HN_SEG_CLASSES], log_powers;
    int best;
} voxel;

/* One value is as many flops as a class has: rows are too short for wide loops. */
static void look(const hn_seg_loss_args *a, int64_t row, voxel *v)
{
    const int n = (int)a->classes;
    float powers = 0.0f;
    v->best = 0;
    for (int c = 0; c < n; c++) {
        v->z[c] = hn_get_f32(a->logits, a->dtype, row * a->ld_logits + c);
        if (v->z[c] > v->z[v->best] || (isnan(v->z[c]) && !isnan(v->z[v->best]))) v->best = c;
    }
    for (int c = 0; c < n; c++) powers += v->p[c] = hn_expf(v->z[c] - v->z[v->best]);
    for (int c = 0; c < n; c++) v->p[c] /= powers;
    v->log_powers = v->z[v->best] + logf(powers);
}

typedef struct {
    float weight, b, q, sign;
} focal_parts;

static focal_parts focal_of(float z, bool mine, float gamma)
{
    const float u = mine ? z : -z, e = hn_expf(-fabsf(u));
    const float b = (u < 0.0f ? -u : 0.0f) + log1pf(e), far = e / (1.0f + e);
    return (focal_parts){.weight = hn_expf(-gamma * (u + b)),
                         .b = b,
                         .q = u < 0.0f ? 1.0f - far : far,
                         .sign = mine ? 1.0f : -1.0f};
}

static void add_voxel(const hn_seg_loss_args *a, int64_t row, double *s)
{
    const int32_t y = a->labels[row];
    const bool focal = a->terms.w_focal != 0.0f;
    voxel v;
    look(a, row, &v);
    if (a->prediction) a->prediction[row] = v.best;
    if (y == HN_LABEL_IGNORED) return;
    for (int c = 0; c < (int)a->classes; c++) {
        double *const e = s + c * HN_SEG_EACH;
        e[HN_SEG_P] += (double)v.p[c];
        if (!focal) continue;
        const focal_parts f = focal_of(v.z[c], c == y, a->terms.gamma);
        e[HN_SEG_FOCAL] +=
            (double)((c == y ? a->terms.alpha : 1.0f - a->terms.alpha) * f.weight * f.b);
        e[HN_SEG_WEIGHT] += (double)f.weight;
    }
    s[y * HN_SEG_EACH + HN_SEG_BOTH] += (double)v.p[y];
    s[y * HN_SEG_EACH + HN_SEG_T] += 1.0;
    s[HN_SEG_CROSS] += (double)(v.log_powers - v.z[y]);
    s[HN_SEG_VOXELS] += 1.0;
    s[HN_SEG_HITS] += v.best == y;
}

static void set_gradient(const hn_seg_loss_args *a, int64_t row, const hn_seg_slopes *s)
{
    const int32_t y = a->labels[row];
    const int n = (int)a->classes;
    const int64_t to = row * a->ld_dlogits;
    if (y == HN_LABEL_IGNORED) {
        for (int c = 0; c < n; c++) hn_set_f32(a->dlogits, a->dtype, to + c, 0.0f);
        return;
    }
    voxel v;
    float mean = 0.0f;
    look(a, row, &v);
    for (int c = 0; c < n; c++) mean += v.p[c] * (s->dice[c] + (c == y ? s->dice_t[c] : 0.0f));
    for (int c = 0; c < n; c++) {
        const bool mine = c == y;
        float d = v.p[c] * (s->dice[c] + (mine ? s->dice_t[c] : 0.0f) - mean);
        d += s->cross * (v.p[c] - (mine ? 1.0f : 0.0f));
        if (a->terms.w_focal != 0.0f) {
            const focal_parts f = focal_of(v.z[c], mine, a->terms.gamma);
            const float alpha = mine ? a->terms.alpha : 1.0f - a->terms.alpha;
            const float slope = -a->terms.gamma * f.weight * (1.0f - f.q); /* of q^gamma, by u */
            d += f.sign *
                 (s->focal[c] * alpha * (slope * f.b - f.weight * f.q) - s->weight[c] * slope);
        }
        hn_set_f32(a->dlogits, a->dtype, to + c, d);
    }
}

static void sum_piece(const hn_seg_loss_args *a, int64_t i, double *s)
{
    const int64_t pieces = pieces_of(a), first = i % pieces * PIECE;
    const int64_t end = first + PIECE < a->voxels ? first + PIECE : a->voxels;
    memset(s, 0, HN_SEG_SUMS * sizeof *s);
    for (int64_t v = first; v < end; v++) add_voxel(a, i / pieces * a->voxels + v, s);
}

hn_status hn_seg_loss_fast(const hn_seg_loss_args *a, void *scratch)
{
    HN_TRY(hn_seg_loss_check(a));
    HN_TRY(hn_check_pointer("seg_loss", "scratch", scratch));
    HN_TRY(hn_seg_loss_check_labels(a));
    const int64_t pieces = pieces_of(a), items = a->images * pieces;
    double *const sums = scratch;
    hn_seg_slopes *const slopes = (hn_seg_slopes *)(void *)(sums + items * HN_SEG_SUMS);
    double loss = 0.0, count = 0.0, hits = 0.0;
#pragma omp parallel for schedule(static) if (COST * a->images * a->voxels > HN_OMP_MIN)
    for (int64_t i = 0; i < items; i++) sum_piece(a, i, sums + i * HN_SEG_SUMS);
    for (int64_t i = 0; i < a->images; i++) {
        double *const s = sums + i * pieces * HN_SEG_SUMS;
        for (int64_t k = HN_SEG_SUMS; k < pieces * HN_SEG_SUMS; k++) s[k % HN_SEG_SUMS] += s[k];
        loss += hn_seg_image(s, a->classes, &a->terms, &slopes[i]);
        if (!(s[HN_SEG_VOXELS] > 0)) continue;
        count += 1.0;
        hits += s[HN_SEG_HITS] / s[HN_SEG_VOXELS];
    }
    if (a->loss_sum) *a->loss_sum = (float)((double)*a->loss_sum + loss);
    if (a->count) *a->count = (float)((double)*a->count + count);
    if (a->hits) *a->hits = (float)((double)*a->hits + hits);
    if (a->dlogits == NULL) return HN_OK;
    const int64_t rows = a->images * a->voxels;
#pragma omp parallel for schedule(static) if (COST * rows > HN_OMP_MIN)
    for (int64_t row = 0; row < rows; row++) set_gradient(a, row, &slopes[row / a->voxels]);
    return HN_OK;
}
