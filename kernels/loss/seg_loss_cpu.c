#include <inttypes.h>
#include <math.h>
#include <stdbool.h>

#include "kernels/loss/seg_sums.h"
#include "runtime/base/check.h"

hn_status hn_seg_loss_check(const hn_seg_loss_args *a)
{
    static const char op[] = "seg_loss";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    if (a->classes < 2 || a->classes > HN_SEG_CLASSES)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " classes, must be 2 to %d", op, a->classes,
                       HN_SEG_CLASSES);
    if (a->images < 1 || a->voxels < 1 || a->images > INT32_MAX || a->voxels > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " images of %" PRId64 " voxels", op, a->images,
                       a->voxels);
    const hn_seg_terms *const t = &a->terms;
    if (!(t->smooth > 0) || !(t->alpha >= 0 && t->alpha <= 1) || !(t->gamma >= 0) ||
        !isfinite(t->gamma) || !isfinite(t->smooth))
        return HN_FAIL(HN_ERR_ARG,
                       "%s: smooth %g must be above 0, alpha %g 0 to 1, gamma %g from 0", op,
                       (double)t->smooth, (double)t->alpha, (double)t->gamma);
    if (!isfinite(t->w_dice) || !isfinite(t->w_focal) || !isfinite(t->w_cross))
        return HN_FAIL(HN_ERR_ARG, "%s: weights %g, %g, %g must be finite", op, (double)t->w_dice,
                       (double)t->w_focal, (double)t->w_cross);
    const int64_t rows = a->images * a->voxels;
    HN_TRY(hn_check_matrix(op, "logits", a->logits, rows, a->classes, a->ld_logits));
    HN_TRY(hn_check_pointer(op, "labels", a->labels));
    if (a->dlogits == NULL) return HN_OK;
    return hn_check_matrix(op, "dlogits", a->dlogits, rows, a->classes, a->ld_dlogits);
}

hn_status hn_seg_loss_check_labels(const hn_seg_loss_args *a)
{
    for (int64_t i = 0; i < a->images * a->voxels; i++)
        if (a->labels[i] != HN_LABEL_IGNORED && (a->labels[i] < 0 || a->labels[i] >= a->classes))
            return HN_FAIL(HN_ERR_ARG,
                           "seg_loss: label %" PRId32 " of voxel %" PRId64 " is none of %" PRId64
                           " classes",
                           a->labels[i], i, a->classes);
    return HN_OK;
}

/* What one logit of one voxel contributes: q^gamma, b, and their slopes by z. */
typedef struct {
    double weight, b, weight_slope, b_slope;
} focal_parts;

static focal_parts focal_of(double z, bool mine, double gamma)
{
    const double sign = mine ? 1.0 : -1.0, u = sign * z;
    const double b = (u < 0 ? -u : 0.0) + log1p(exp(-fabs(u)));
    const double q = 1.0 / (1.0 + exp(u)), weight = exp(-gamma * (u + b));
    return (focal_parts){weight, b, -sign * gamma * weight * (1.0 - q), -sign * q};
}

typedef struct {
    double z[HN_SEG_CLASSES], p[HN_SEG_CLASSES], log_powers;
    int64_t best;
} voxel;

static voxel look(const hn_seg_loss_args *a, int64_t row)
{
    voxel v = {.log_powers = 0.0};
    double powers = 0.0;
    for (int64_t c = 0; c < a->classes; c++) {
        v.z[c] = (double)hn_get_f32(a->logits, a->dtype, row * a->ld_logits + c);
        if (v.z[c] > v.z[v.best] || (isnan(v.z[c]) && !isnan(v.z[v.best]))) v.best = c;
    }
    for (int64_t c = 0; c < a->classes; c++) powers += v.p[c] = exp(v.z[c] - v.z[v.best]);
    for (int64_t c = 0; c < a->classes; c++) v.p[c] /= powers;
    v.log_powers = v.z[v.best] + log(powers);
    return v;
}

static void add_voxel(const hn_seg_loss_args *a, int64_t row, double *s)
{
    const voxel v = look(a, row);
    const int32_t y = a->labels[row];
    if (a->prediction) a->prediction[row] = (int32_t)v.best;
    if (y == HN_LABEL_IGNORED) return;
    for (int64_t c = 0; c < a->classes; c++) {
        const bool mine = c == y;
        const focal_parts f = focal_of(v.z[c], mine, (double)a->terms.gamma);
        const double alpha = (double)a->terms.alpha;
        double *const e = s + c * HN_SEG_EACH;
        e[HN_SEG_P] += v.p[c];
        e[HN_SEG_BOTH] += mine ? v.p[c] : 0.0;
        e[HN_SEG_T] += mine;
        e[HN_SEG_FOCAL] += (mine ? alpha : 1.0 - alpha) * f.weight * f.b;
        e[HN_SEG_WEIGHT] += f.weight;
    }
    s[HN_SEG_CROSS] += v.log_powers - v.z[y];
    s[HN_SEG_VOXELS] += 1.0;
    s[HN_SEG_HITS] += v.best == y;
}

static void set_gradient(const hn_seg_loss_args *a, int64_t row, const hn_seg_slopes *s)
{
    const voxel v = look(a, row);
    const int32_t y = a->labels[row];
    const double alpha = (double)a->terms.alpha;
    double mean = 0.0;
    for (int64_t c = 0; c < a->classes; c++)
        mean += v.p[c] * ((double)s->dice[c] + (c == y ? (double)s->dice_t[c] : 0.0));
    for (int64_t c = 0; c < a->classes; c++) {
        const bool mine = c == y;
        const focal_parts f = focal_of(v.z[c], mine, (double)a->terms.gamma);
        const double weighed =
            (mine ? alpha : 1.0 - alpha) * (f.weight_slope * f.b + f.weight * f.b_slope);
        double d = v.p[c] * ((double)s->dice[c] + (mine ? (double)s->dice_t[c] : 0.0) - mean);
        d += (double)s->focal[c] * weighed - (double)s->weight[c] * f.weight_slope;
        d += (double)s->cross * (v.p[c] - (mine ? 1.0 : 0.0));
        hn_set_f32(a->dlogits, a->dtype, row * a->ld_dlogits + c,
                   y == HN_LABEL_IGNORED ? 0.0f : (float)d);
    }
}

hn_status hn_seg_loss_cpu(const hn_seg_loss_args *a)
{
    HN_TRY(hn_seg_loss_check(a));
    HN_TRY(hn_seg_loss_check_labels(a));
    double loss = 0.0, count = 0.0, hits = 0.0;
    for (int64_t i = 0; i < a->images; i++) {
        double s[HN_SEG_SUMS] = {0};
        hn_seg_slopes slopes;
        for (int64_t v = 0; v < a->voxels; v++) add_voxel(a, i * a->voxels + v, s);
        loss += hn_seg_image(s, a->classes, &a->terms, &slopes);
        if (s[HN_SEG_VOXELS] > 0) {
            count += 1.0;
            hits += s[HN_SEG_HITS] / s[HN_SEG_VOXELS];
        }
        for (int64_t v = 0; v < a->voxels && a->dlogits; v++)
            set_gradient(a, i * a->voxels + v, &slopes);
    }
    if (a->loss_sum) *a->loss_sum = (float)((double)*a->loss_sum + loss);
    if (a->count) *a->count = (float)((double)*a->count + count);
    if (a->hits) *a->hits = (float)((double)*a->hits + hits);
    return HN_OK;
}
