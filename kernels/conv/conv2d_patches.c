#include "kernels/conv/conv2d_patches.h"

#include <string.h>

#include "runtime/base/multiversion.h"

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static hn_conv2d_axis_ forward_axis(const hn_conv2d_shape *s, int64_t grid, int64_t taps)
{
    return (hn_conv2d_axis_){
        .grid = grid, .taps = taps, .first = -s->pad, .step = s->dilation, .kernel_step = 1};
}

hn_conv2d_patches_ hn_conv2d_patches_x_(const hn_conv2d_shape *s, const void *x, hn_dtype t,
                                        int64_t ld)
{
    return (hn_conv2d_patches_){.p = x,
                                .dtype = t,
                                .h = s->h,
                                .w = s->w,
                                .ld = ld,
                                .channels = s->in / s->groups,
                                .stride = s->stride,
                                .down = forward_axis(s, hn_conv2d_out_h(s), s->kh),
                                .across = forward_axis(s, hn_conv2d_out_w(s), s->kw)};
}

static int64_t common_divisor(int64_t a, int64_t b)
{
    while (b != 0) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Pixel i = phase + u stride reads y at (i + pad - r dilation) / stride where that is whole. Such r
 * lie stride / gcd apart, so that y moves by -dilation / gcd from one to the next. */
static hn_conv2d_axis_ backward_axis(const hn_conv2d_shape *s, int64_t size, int64_t kernel,
                                     int64_t phase)
{
    const int64_t divisor = common_divisor(s->stride, s->dilation), period = s->stride / divisor;
    hn_conv2d_axis_ axis = {.grid = phase < size ? ceil_div(size - phase, s->stride) : 0,
                            .step = -(s->dilation / divisor),
                            .kernel_step = period};
    int64_t r = 0;
    while (r < period && r < kernel && (phase + s->pad - r * s->dilation) % s->stride != 0) r++;
    if (r == period || r == kernel) return axis; /* no tap meets this remainder */
    axis.kernel = r;
    axis.taps = ceil_div(kernel - r, period);
    axis.first = (phase + s->pad - r * s->dilation) / s->stride;
    return axis;
}

hn_conv2d_patches_ hn_conv2d_patches_dy_(const hn_conv2d_shape *s, const void *dy, hn_dtype t,
                                         int64_t ld, int64_t down, int64_t across)
{
    return (hn_conv2d_patches_){.p = dy,
                                .dtype = t,
                                .h = hn_conv2d_out_h(s),
                                .w = hn_conv2d_out_w(s),
                                .ld = ld,
                                .channels = s->out / s->groups,
                                .stride = 1,
                                .down = backward_axis(s, s->h, s->kh, down),
                                .across = backward_axis(s, s->w, s->kw, across)};
}

static bool plain_axis(const hn_conv2d_axis_ *a, int64_t size)
{
    return a->taps == 1 && a->first == 0 && a->grid == size;
}

bool hn_conv2d_plain_(const hn_conv2d_patches_ *s)
{
    return s->dtype == HN_F32 && s->stride == 1 && plain_axis(&s->down, s->h) &&
           plain_axis(&s->across, s->w);
}

/* `spans` runs of n elements. */
HN_MULTIVERSION static void copy_f32(const float *restrict from, int64_t from_step,
                                     float *restrict to, int64_t to_step, int64_t spans, int64_t n)
{
    for (int64_t i = 0; i < spans; i++)
        for (int64_t c = 0; c < n; c++) to[i * to_step + c] = from[i * from_step + c];
}

HN_MULTIVERSION static void copy_bf16(const hn_bf16 *restrict from, int64_t from_step,
                                      float *restrict to, int64_t to_step, int64_t spans, int64_t n)
{
    for (int64_t i = 0; i < spans; i++)
        for (int64_t c = 0; c < n; c++)
            to[i * to_step + c] = hn_bf16_to_f32(from[i * from_step + c]);
}

HN_MULTIVERSION static void clear(float *to, int64_t to_step, int64_t spans, int64_t n)
{
    for (int64_t i = 0; i < spans; i++)
        for (int64_t c = 0; c < n; c++) to[i * to_step + c] = 0.0f;
}

/* Positions that lie in one row of the grid, seen through a part of one tap. */
typedef struct {
    int64_t line;     /* of the images, (image h + row) w: where its first pixel is */
    int64_t v, count; /* positions */
    int64_t channel;  /* first of the images' */
    int64_t n;        /* channels */
} span;

/* Those whose pixel at v stride + shift exists are copied; zeros for the others. */
static void copy_span(const hn_conv2d_patches_ *s, const span *p, int64_t shift, float *to,
                      int64_t to_step)
{
    const int64_t end = p->v + p->count;
    int64_t lo = shift < 0 ? ceil_div(-shift, s->stride) : 0;
    int64_t hi = s->w > shift ? ceil_div(s->w - shift, s->stride) : 0;
    lo = lo < p->v ? p->v : lo > end ? end : lo;
    hi = hi > end ? end : hi < lo ? lo : hi;
    clear(to, to_step, lo - p->v, p->n);
    clear(to + (hi - p->v) * to_step, to_step, end - hi, p->n);
    if (hi == lo) return;
    const int64_t at = (p->line + lo * s->stride + shift) * s->ld + p->channel;
    float *const first = to + (lo - p->v) * to_step;
    if (s->dtype == HN_F32)
        copy_f32((const float *)s->p + at, s->stride * s->ld, first, to_step, hi - lo, p->n);
    else
        copy_bf16((const hn_bf16 *)s->p + at, s->stride * s->ld, first, to_step, hi - lo, p->n);
}

/* Columns col .. col + cols of `count` positions from (u, v) of an image on, all in row u. */
static void gather_line(const hn_conv2d_patches_ *s, int64_t group, int64_t image, int64_t u,
                        int64_t v, int64_t count, int64_t col, int64_t cols, float *to)
{
    int64_t tap = col / s->channels, channel = col % s->channels;
    for (int64_t done = 0; done < cols; tap++, channel = 0) {
        const int64_t rest = s->channels - channel, n = rest < cols - done ? rest : cols - done;
        const int64_t r = tap / s->across.taps, t = tap % s->across.taps;
        const int64_t i = u * s->stride + s->down.first + r * s->down.step;
        const span p = {.line = (image * s->h + i) * s->w,
                        .v = v,
                        .count = count,
                        .channel = group * s->channels + channel,
                        .n = n};
        if (i < 0 || i >= s->h)
            clear(to + done, cols, count, n);
        else
            copy_span(s, &p, s->across.first + t * s->across.step, to + done, cols);
        done += n;
    }
}

void hn_conv2d_gather_(const hn_conv2d_patches_ *s, int64_t group, int64_t row, int64_t rows,
                       int64_t col, int64_t cols, float *to)
{
    const int64_t width = s->across.grid;
    for (const int64_t end = row + rows; row < end;) {
        const int64_t line = row / width, v = row % width;
        const int64_t count = end - row < width - v ? end - row : width - v;
        gather_line(s, group, line / s->down.grid, line % s->down.grid, v, count, col, cols, to);
        to += count * cols;
        row += count;
    }
}
