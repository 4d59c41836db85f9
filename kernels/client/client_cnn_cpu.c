#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/client/client_cnn_plan.h"
#include "runtime/base/alloc.h"
#include "runtime/base/check.h"

enum { MAX_SIDE = 4095, MAX_FILTERS = 4096, MAX_HIDDEN = 1 << 16 };

static const char op[] = "client_cnn";

/* ---- checks ---- */

static hn_status check_size(const char *name, int64_t v, int64_t least, int64_t most)
{
    if (v >= least && v <= most) return HN_OK;
    return HN_FAIL(HN_ERR_SHAPE, "%s: %s %" PRId64 " is not in %" PRId64 " .. %" PRId64, op, name,
                   v, least, most);
}

static hn_status check_fours(const char *name, int64_t v, int64_t most)
{
    HN_TRY(check_size(name, v, 4, most));
    if (v % 4 == 0) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: %s %" PRId64 " is not a multiple of 4", op, name, v);
}

hn_status hn_client_cnn_check_net(const hn_client_cnn_net *net)
{
    HN_TRY(hn_check_pointer(op, "net", net));
    HN_TRY(check_size("height", net->height, 1, MAX_SIDE));
    HN_TRY(check_size("width", net->width, 1, MAX_SIDE));
    HN_TRY(check_size("channels", net->channels, 1, HN_CLIENT_CNN_CHANNELS));
    HN_TRY(check_size("steps", net->steps, 1, HN_CLIENT_CNN_STEPS));
    if (net->kernel != 3 && net->kernel != 5)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: kernel %" PRId64 " is neither 3 nor 5", op,
                       net->kernel);
    HN_TRY(check_size("pad", net->pad, 0, net->kernel - 1));
    if (net->kernel == 5 && net->pad > 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: pad %" PRId64 " with kernel 5", op, net->pad);
    for (int64_t l = 0; l < net->steps; l++) {
        HN_TRY(check_fours("filters", net->filters[l], MAX_FILTERS));
        const hn_client_cnn_step s = hn_client_cnn_step_of(net, l);
        if (s.in_h + 2 * net->pad <= net->kernel || s.in_w + 2 * net->pad <= net->kernel)
            return HN_FAIL(HN_ERR_SHAPE,
                           "%s: step %" PRId64 " gets images of %" PRId64 " x %" PRId64
                           ", too small for kernel %" PRId64 " and a pool",
                           op, l, s.in_h, s.in_w, net->kernel);
    }
    HN_TRY(check_fours("hidden", net->hidden, MAX_HIDDEN));
    return check_size("classes", net->classes, 2, HN_CLIENT_CNN_CLASSES);
}

enum { MAX_TENSORS = 2 * HN_CLIENT_CNN_STEPS + 4 };

/* Where each tensor of the net begins in a client's values, and its size; returns how many. */
static int tensors_of(const hn_client_cnn_args *a, int64_t *first, int64_t *size)
{
    hn_client_cnn_at dense;
    const int64_t n = hn_client_cnn_layout(&a->net, &dense);
    int count = 0;
    for (int64_t l = 0; l < a->net.steps; l++) {
        const int64_t next = l + 1 < a->net.steps ? dense.conv_w[l + 1] : dense.fc1_w;
        first[count] = a->at.conv_w[l], size[count++] = dense.conv_b[l] - dense.conv_w[l];
        first[count] = a->at.conv_b[l], size[count++] = next - dense.conv_b[l];
    }
    first[count] = a->at.fc1_w, size[count++] = dense.fc1_b - dense.fc1_w;
    first[count] = a->at.fc1_b, size[count++] = dense.fc2_w - dense.fc1_b;
    first[count] = a->at.fc2_w, size[count++] = dense.fc2_b - dense.fc2_w;
    first[count] = a->at.fc2_b, size[count++] = n - dense.fc2_b;
    return count;
}

/* Tensors lie in the n values, behind each other in any order. */
static hn_status check_places(const hn_client_cnn_args *a)
{
    int64_t first[MAX_TENSORS], size[MAX_TENSORS];
    const int count = tensors_of(a, first, size);
    for (int i = 0; i < count; i++) {
        if (first[i] < 0 || first[i] > a->n - size[i])
            return HN_FAIL(HN_ERR_SHAPE,
                           "%s: tensor %d at %" PRId64 " with %" PRId64
                           " values is not in the %" PRId64 " of a client",
                           op, i, first[i], size[i], a->n);
        for (int k = 0; k < i; k++)
            if (first[i] < first[k] + size[k] && first[k] < first[i] + size[i])
                return HN_FAIL(HN_ERR_SHAPE, "%s: tensors %d and %d overlap", op, k, i);
    }
    return HN_OK;
}

static hn_status check_numbers(const hn_client_cnn_args *a)
{
    if (!(a->mu >= 0.0f) || !isfinite(a->mu))
        return HN_FAIL(HN_ERR_ARG, "%s: mu %g must be 0 or positive", op, (double)a->mu);
    if (!(a->weight_decay >= 0.0f) || !isfinite(a->weight_decay))
        return HN_FAIL(HN_ERR_ARG, "%s: weight_decay %g must be 0 or positive", op,
                       (double)a->weight_decay);
    for (int64_t k = 0; k < a->net.channels; k++)
        if (!isfinite(a->mean[k]) || !(a->std[k] >= 0.0f) || !isfinite(a->std[k]))
            return HN_FAIL(HN_ERR_ARG, "%s: channel %" PRId64 " has mean %g and std %g", op, k,
                           (double)a->mean[k], (double)a->std[k]);
    return HN_OK;
}

static hn_status check_strides(const hn_client_cnn_args *a)
{
    if (a->start_stride != 0 && a->start_stride < a->n)
        return HN_FAIL(HN_ERR_SHAPE, "%s: start_stride %" PRId64 " is neither 0 nor %" PRId64, op,
                       a->start_stride, a->n);
    if (a->values_stride < a->n)
        return HN_FAIL(HN_ERR_SHAPE, "%s: values_stride %" PRId64 " is below %" PRId64, op,
                       a->values_stride, a->n);
    if (a->lr_stride != 0 && a->lr_stride < a->steps)
        return HN_FAIL(HN_ERR_SHAPE, "%s: lr_stride %" PRId64 " is neither 0 nor %" PRId64, op,
                       a->lr_stride, a->steps);
    if (a->values == a->start && a->start_stride != a->values_stride)
        return HN_FAIL(HN_ERR_ARG, "%s: values lie on a start of another stride", op);
    return HN_OK;
}

hn_status hn_client_cnn_check(const hn_client_cnn_args *a)
{
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_client_cnn_check_net(&a->net));
    HN_TRY(hn_check_pointer(op, "start", a->start));
    HN_TRY(hn_check_pointer(op, "values", a->values));
    HN_TRY(hn_check_pointer(op, "images", a->images));
    HN_TRY(hn_check_pointer(op, "labels", a->labels));
    HN_TRY(hn_check_pointer(op, "rows", a->rows));
    HN_TRY(hn_check_pointer(op, "client_steps", a->client_steps));
    HN_TRY(hn_check_pointer(op, "loss_from", a->loss_from));
    HN_TRY(hn_check_pointer(op, "lr", a->lr));
    HN_TRY(hn_check_pointer(op, "loss", a->loss));
    HN_TRY(hn_check_pointer(op, "status", a->status));
    HN_TRY(check_size("clients", a->clients, 1, INT32_MAX));
    HN_TRY(check_size("steps of a client", a->steps, 1, INT32_MAX));
    HN_TRY(check_size("batch", a->batch, 1, HN_CLIENT_CNN_BATCH));
    HN_TRY(check_size("count", a->count, 1, INT32_MAX));
    HN_TRY(check_size("n", a->n, 1, INT64_MAX / 16));
    HN_TRY(check_places(a));
    HN_TRY(check_strides(a));
    return check_numbers(a);
}

static hn_status check_step(const hn_client_cnn_args *a, int64_t g, int64_t t)
{
    for (int64_t i = 0; i < a->batch; i++) {
        const int32_t row = a->rows[(g * a->steps + t) * a->batch + i];
        if (row < -1 || row >= a->count)
            return HN_FAIL(HN_ERR_ARG,
                           "%s: client %" PRId64 ", step %" PRId64 ": image %" PRId32
                           " is neither 0 to %" PRId64 " nor -1",
                           op, g, t, row, a->count - 1);
        if (row >= 0 && (a->labels[row] < 0 || a->labels[row] >= a->net.classes))
            return HN_FAIL(HN_ERR_ARG,
                           "%s: client %" PRId64 ", step %" PRId64 ": image %" PRId32
                           " has the label %" PRId32 ", of %" PRId64 " classes",
                           op, g, t, row, a->labels[row], a->net.classes);
    }
    return HN_OK;
}

hn_status hn_client_cnn_check_rows(const hn_client_cnn_args *a)
{
    for (int64_t g = 0; g < a->clients; g++) {
        if (a->client_steps[g] < 0 || a->client_steps[g] > a->steps)
            return HN_FAIL(HN_ERR_ARG,
                           "%s: client %" PRId64 " has %" PRId32 " steps, not 0 to %" PRId64, op, g,
                           a->client_steps[g], a->steps);
        for (int64_t t = 0; t < a->client_steps[g]; t++) HN_TRY(check_step(a, g, t));
    }
    return HN_OK;
}

/* ---- the twin: an image after the other, gradients in a vector beside the values ---- */

typedef struct {
    const hn_client_cnn_args *a;
    int64_t features;
    float *p;                             /* [n] of the client that trains */
    double *grad;                         /* [n] */
    float *x[HN_CLIENT_CNN_STEPS + 1];    /* inputs of steps; features */
    double *dx[HN_CLIENT_CNN_STEPS + 1];  /* their gradients */
    uint8_t *choice[HN_CLIENT_CNN_STEPS]; /* pixel of the window, 2 u + v */
    float *hidden, *logits;
    double *d_hidden, *d_logits;
} twin;

/* Index of w[o, u, v, c] in a filter bank. */
static int64_t tap(const twin *t, const hn_client_cnn_step *s, int64_t o, int64_t u, int64_t v,
                   int64_t c)
{
    return ((o * t->a->net.kernel + u) * t->a->net.kernel + v) * s->in_c + c;
}

/* Pixel (i, j) of the input, or -1 where that is padding. */
static int64_t pixel(const hn_client_cnn_step *s, int64_t i, int64_t j)
{
    return i < 0 || j < 0 || i >= s->in_h || j >= s->in_w ? -1 : i * s->in_w + j;
}

/* One output of a convolution, in the order of the contract. */
static float conv_at(const twin *t, int64_t l, const hn_client_cnn_step *s, int64_t i, int64_t j,
                     int64_t o)
{
    const hn_client_cnn_net *net = &t->a->net;
    const float *const w = t->p + t->a->at.conv_w[l];
    const int64_t group = l == 0 ? 1 : 4;
    float sum = t->p[t->a->at.conv_b[l] + o];
    for (int64_t first = 0; first < s->in_c; first += group)
        for (int64_t u = 0; u < net->kernel; u++)
            for (int64_t v = 0; v < net->kernel; v++) {
                const int64_t at = pixel(s, i + u - net->pad, j + v - net->pad);
                for (int64_t c = first; c < first + group && at >= 0; c++)
                    sum = fmaf(t->x[l][at * s->in_c + c], w[tap(t, s, o, u, v, c)], sum);
            }
    return sum;
}

static void step_fwd(const twin *t, int64_t l)
{
    const hn_client_cnn_step s = hn_client_cnn_step_of(&t->a->net, l);
    for (int64_t p = 0; p < s.h; p++)
        for (int64_t q = 0; q < s.w; q++)
            for (int64_t o = 0; o < s.out_c; o++) {
                float best = conv_at(t, l, &s, 2 * p, 2 * q, o);
                uint8_t at = 0;
                for (uint8_t k = 1; k < 4; k++) {
                    const float v = conv_at(t, l, &s, 2 * p + k / 2, 2 * q + k % 2, o);
                    if (v > best || isnan(v)) best = v, at = k;
                }
                const int64_t cell = (p * s.w + q) * s.out_c + o;
                t->x[l + 1][cell] = best <= 0.0f ? 0.0f : best;
                t->choice[l][cell] = at;
            }
}

/* dx[l + 1] is masked by relu already. */
static void step_bwd(const twin *t, int64_t l)
{
    const hn_client_cnn_net *net = &t->a->net;
    const hn_client_cnn_step s = hn_client_cnn_step_of(net, l);
    const float *const w = t->p + t->a->at.conv_w[l];
    double *const dw = t->grad + t->a->at.conv_w[l], *const db = t->grad + t->a->at.conv_b[l];
    memset(t->dx[l], 0, (size_t)(s.in_h * s.in_w * s.in_c) * sizeof(double));
    for (int64_t cell = 0; cell < s.h * s.w * s.out_c; cell++) {
        const int64_t o = cell % s.out_c, p = cell / s.out_c / s.w, q = cell / s.out_c % s.w;
        const int64_t i = 2 * p + t->choice[l][cell] / 2, j = 2 * q + t->choice[l][cell] % 2;
        const double d = t->dx[l + 1][cell];
        db[o] += d;
        for (int64_t u = 0; u < net->kernel; u++)
            for (int64_t v = 0; v < net->kernel; v++) {
                const int64_t at = pixel(&s, i + u - net->pad, j + v - net->pad);
                for (int64_t c = 0; c < s.in_c && at >= 0; c++) {
                    dw[tap(t, &s, o, u, v, c)] += d * (double)t->x[l][at * s.in_c + c];
                    t->dx[l][at * s.in_c + c] += d * (double)w[tap(t, &s, o, u, v, c)];
                }
            }
    }
    for (int64_t e = 0; l > 0 && e < s.in_h * s.in_w * s.in_c; e++)
        if (!(t->x[l][e] > 0.0f)) t->dx[l][e] = 0;
}

static void linear_fwd(const float *p, int64_t w, int64_t b, const float *x, int64_t in,
                       int64_t out, float *y)
{
    for (int64_t j = 0; j < out; j++) {
        double sum = (double)p[b + j];
        for (int64_t k = 0; k < in; k++) sum += (double)p[w + j * in + k] * (double)x[k];
        y[j] = (float)sum;
    }
}

/* dx is masked by relu, whose output is x. */
static void linear_bwd(const twin *t, int64_t w, int64_t b, const float *x, int64_t in,
                       const double *dy, int64_t out, double *dx)
{
    memset(dx, 0, (size_t)in * sizeof *dx);
    for (int64_t j = 0; j < out; j++) {
        t->grad[b + j] += dy[j];
        for (int64_t k = 0; k < in; k++) {
            t->grad[w + j * in + k] += dy[j] * (double)x[k];
            dx[k] += dy[j] * (double)t->p[w + j * in + k];
        }
    }
    for (int64_t k = 0; k < in; k++)
        if (!(x[k] > 0.0f)) dx[k] = 0;
}

static void load_image(const twin *t, int32_t row)
{
    const hn_client_cnn_net *net = &t->a->net;
    const int64_t size = net->height * net->width * net->channels;
    for (int64_t e = 0; e < size; e++) {
        const int64_t k = e % net->channels;
        const double std = t->a->std[k] != 0.0f ? (double)t->a->std[k] : 1.0;
        t->x[0][e] = fmaf((float)t->a->images[row * size + e], (float)(1.0 / (255.0 * std)),
                          (float)(-(double)t->a->mean[k] / std));
    }
}

/* The loss of an image; adds the gradient of loss / images. */
static double image_pass(const twin *t, int32_t row, int64_t images)
{
    const hn_client_cnn_net *net = &t->a->net;
    const hn_client_cnn_at *at = &t->a->at;
    const int64_t L = net->steps;
    load_image(t, row);
    for (int64_t l = 0; l < L; l++) step_fwd(t, l);
    linear_fwd(t->p, at->fc1_w, at->fc1_b, t->x[L], t->features, net->hidden, t->hidden);
    for (int64_t k = 0; k < net->hidden; k++)
        if (t->hidden[k] <= 0.0f) t->hidden[k] = 0.0f;
    linear_fwd(t->p, at->fc2_w, at->fc2_b, t->hidden, net->hidden, net->classes, t->logits);

    double top = -INFINITY, sum = 0;
    for (int64_t c = 0; c < net->classes; c++) top = fmax(top, (double)t->logits[c]);
    for (int64_t c = 0; c < net->classes; c++) sum += exp((double)t->logits[c] - top);
    const int32_t label = t->a->labels[row];
    for (int64_t c = 0; c < net->classes; c++)
        t->d_logits[c] =
            (exp((double)t->logits[c] - top) / sum - (c == label ? 1.0 : 0.0)) / (double)images;
    linear_bwd(t, at->fc2_w, at->fc2_b, t->hidden, net->hidden, t->d_logits, net->classes,
               t->d_hidden);
    linear_bwd(t, at->fc1_w, at->fc1_b, t->x[L], t->features, t->d_hidden, net->hidden, t->dx[L]);
    for (int64_t l = L - 1; l >= 0; l--) step_bwd(t, l);
    return top + log(sum) - (double)t->logits[label];
}

static void update_range(const twin *t, const float *start, double lr, int64_t first, int64_t n)
{
    for (int64_t i = first; i < first + n; i++) {
        const double p = (double)t->p[i];
        const double g =
            t->grad[i] + (double)t->a->weight_decay * p + (double)t->a->mu * (p - (double)start[i]);
        t->p[i] = (float)(p - lr * g);
    }
}

static void update(const twin *t, const float *start, double lr)
{
    const hn_client_cnn_net *net = &t->a->net;
    const hn_client_cnn_at *at = &t->a->at;
    for (int64_t l = 0; l < net->steps; l++) {
        const hn_client_cnn_step s = hn_client_cnn_step_of(net, l);
        update_range(t, start, lr, at->conv_w[l], tap(t, &s, s.out_c, 0, 0, 0));
        update_range(t, start, lr, at->conv_b[l], s.out_c);
    }
    update_range(t, start, lr, at->fc1_w, net->hidden * t->features);
    update_range(t, start, lr, at->fc1_b, net->hidden);
    update_range(t, start, lr, at->fc2_w, net->classes * net->hidden);
    update_range(t, start, lr, at->fc2_b, net->classes);
}

/* Of the values that are trained. */
static bool all_finite(const twin *t)
{
    int64_t first[MAX_TENSORS], size[MAX_TENSORS];
    const int count = tensors_of(t->a, first, size);
    for (int k = 0; k < count; k++)
        for (int64_t i = 0; i < size[k]; i++)
            if (!isfinite(t->p[first[k] + i])) return false;
    return true;
}

static void train(const twin *t, int64_t g)
{
    const hn_client_cnn_args *a = t->a;
    const float *const start = a->start + g * a->start_stride;
    double loss = 0;
    int64_t losses = 0;
    memcpy(t->p, start, (size_t)a->n * sizeof(float));
    for (int64_t s = 0; s < a->client_steps[g]; s++) {
        const int32_t *const rows = a->rows + (g * a->steps + s) * a->batch;
        double of_step = 0;
        int64_t images = 0;
        memset(t->grad, 0, (size_t)a->n * sizeof(double));
        for (int64_t i = 0; i < a->batch; i++) images += rows[i] >= 0;
        for (int64_t i = 0; i < a->batch; i++)
            if (rows[i] >= 0) of_step += image_pass(t, rows[i], images);
        if (images > 0) update(t, start, (double)a->lr[g * a->lr_stride + s]);
        if (s < a->loss_from[g]) of_step = 0 * of_step, images = 0; /* NaN stays */
        loss += of_step;
        losses += images;
    }
    loss = losses > 0 ? loss / (double)losses : loss;
    memcpy(a->values + g * a->values_stride, t->p, (size_t)a->n * sizeof(float));
    a->loss[g] = (float)loss;
    a->status[g] = isfinite(loss) && all_finite(t) ? HN_CLIENT_DONE : HN_CLIENT_NONFINITE;
}

static void twin_free(twin *t)
{
    hn_free(t->p);
    hn_free(t->grad);
    for (int l = 0; l <= HN_CLIENT_CNN_STEPS; l++) {
        hn_free(t->x[l]);
        hn_free(t->dx[l]);
        if (l < HN_CLIENT_CNN_STEPS) hn_free(t->choice[l]);
    }
    hn_free(t->hidden);
    hn_free(t->logits);
    hn_free(t->d_hidden);
    hn_free(t->d_logits);
}

/* What a pass writes before it reads: zeroed all the same. */
static bool twin_take(twin *t)
{
    const hn_client_cnn_net *net = &t->a->net;
    bool all = true;
    for (int64_t l = 0; l <= net->steps; l++) {
        const hn_client_cnn_step s = hn_client_cnn_step_of(net, l > 0 ? l - 1 : 0);
        const int64_t n = l > 0 ? s.h * s.w * s.out_c : s.in_h * s.in_w * s.in_c;
        t->x[l] = hn_calloc((size_t)n, sizeof *t->x[l]);
        t->dx[l] = hn_calloc((size_t)n, sizeof *t->dx[l]);
        if (l > 0) t->choice[l - 1] = hn_calloc((size_t)n, 1);
        all = all && t->x[l] && t->dx[l] && (l == 0 || t->choice[l - 1]);
    }
    t->p = hn_calloc((size_t)t->a->n, sizeof *t->p);
    t->grad = hn_calloc((size_t)t->a->n, sizeof *t->grad);
    t->hidden = hn_calloc((size_t)net->hidden, sizeof *t->hidden);
    t->d_hidden = hn_calloc((size_t)net->hidden, sizeof *t->d_hidden);
    t->logits = hn_calloc((size_t)net->classes, sizeof *t->logits);
    t->d_logits = hn_calloc((size_t)net->classes, sizeof *t->d_logits);
    return all && t->p && t->grad && t->hidden && t->d_hidden && t->logits && t->d_logits;
}

hn_status hn_client_cnn_cpu(const hn_client_cnn_args *a)
{
    HN_TRY(hn_client_cnn_check(a));
    HN_TRY(hn_client_cnn_check_rows(a));
    bool memory = true;
#pragma omp parallel for schedule(dynamic)
    for (int64_t g = 0; g < a->clients; g++) {
        twin t = {.a = a, .features = hn_client_cnn_features(&a->net)};
        if (twin_take(&t)) {
            train(&t, g);
        } else {
#pragma omp atomic write
            memory = false;
        }
        twin_free(&t);
    }
    if (!memory) return HN_FAIL(HN_ERR_MEMORY, "%s: no memory for a client's net", op);
    return HN_OK;
}
