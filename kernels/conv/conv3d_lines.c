#include "kernels/conv/conv3d_lines.h"

#include <string.h>

#include "runtime/base/multiversion.h"

static hn_conv3d_axis_ forward_axis(const hn_conv3d_shape *s, int64_t size, int64_t kernel)
{
    return (hn_conv3d_axis_){.result = hn_conv3d_out_(s, size, kernel),
                             .source = size,
                             .taps = kernel,
                             .times = s->stride,
                             .over = 1,
                             .first = -s->pad,
                             .step = s->dilation};
}

static hn_conv3d_axis_ backward_axis(const hn_conv3d_shape *s, int64_t size, int64_t kernel)
{
    return (hn_conv3d_axis_){.result = size,
                             .source = hn_conv3d_out_(s, size, kernel),
                             .taps = kernel,
                             .times = 1,
                             .over = s->stride,
                             .first = s->pad,
                             .step = -s->dilation};
}

hn_conv3d_view_ hn_conv3d_view_x_(const hn_conv3d_shape *s, const void *x, hn_dtype t, int64_t ld)
{
    return (hn_conv3d_view_){.axis = {forward_axis(s, s->d, s->kd), forward_axis(s, s->h, s->kh),
                                      forward_axis(s, s->w, s->kw)},
                             .p = x,
                             .dtype = t,
                             .ld = ld,
                             .channels = s->in};
}

hn_conv3d_view_ hn_conv3d_view_dy_(const hn_conv3d_shape *s, const void *dy, hn_dtype t, int64_t ld)
{
    return (hn_conv3d_view_){.axis = {backward_axis(s, s->d, s->kd), backward_axis(s, s->h, s->kh),
                                      backward_axis(s, s->w, s->kw)},
                             .p = dy,
                             .dtype = t,
                             .ld = ld,
                             .channels = s->out};
}

static int64_t magnitude(int64_t v) { return v < 0 ? -v : v; }

/* Neighbouring places see neighbouring places. */
static bool moves_by_one(const hn_conv3d_axis_ *a) { return a->times == 1 && a->over == 1; }

/* ---- layout ---- */

static size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

static hn_conv3d_lines_ measure(const hn_conv3d_view_ *v)
{
    const hn_conv3d_axis_ *const a = &v->axis[2];
    const int64_t reach = (a->taps - 1) * a->step;
    hn_conv3d_lines_ s = {.view = v, .windows = moves_by_one(a), .length = hn_conv3d_width_(v)};
    if (s.windows) {
        s.low = a->first + (reach < 0 ? reach : 0);
        s.length += magnitude(reach);
    }
    s.row_floats = (s.windows ? 1 : a->taps) * v->channels * s.length;
    s.count = (v->axis[0].taps * v->axis[1].taps * a->taps * v->channels + 1) / 2 * 2;
    return s;
}

static size_t array_bytes(const hn_conv3d_lines_ *s)
{
    return round_up((size_t)s->count * sizeof(float *));
}
static size_t held_bytes(const hn_conv3d_view_ *v)
{
    return round_up((size_t)(v->axis[0].taps * v->axis[1].taps) * sizeof(int64_t));
}
static size_t zeros_bytes(const hn_conv3d_view_ *v)
{
    return round_up((size_t)hn_conv3d_width_(v) * sizeof(float));
}

size_t hn_conv3d_lines_bytes_(const hn_conv3d_view_ *v)
{
    const hn_conv3d_lines_ s = measure(v);
    const int64_t rows = v->axis[0].taps * v->axis[1].taps;
    return array_bytes(&s) + held_bytes(v) + zeros_bytes(v) +
           round_up((size_t)(rows * s.row_floats) * sizeof(float));
}

hn_conv3d_lines_ hn_conv3d_lines_start_(const hn_conv3d_view_ *v, void *memory)
{
    hn_conv3d_lines_ s = measure(v);
    char *at = memory;
    s.array = (const float **)(void *)at;
    at += array_bytes(&s);
    s.held = (int64_t *)(void *)at;
    at += held_bytes(v);
    s.zeros = (float *)(void *)at;
    at += zeros_bytes(v);
    s.rows = (float *)(void *)at;
    for (int64_t i = 0; i < v->axis[0].taps * v->axis[1].taps; i++) s.held[i] = -1;
    memset(s.zeros, 0, zeros_bytes(v));
    return s;
}

/* ---- rows ---- */

HN_MULTIVERSION static void planes_f32(const float *restrict p, int64_t ld, int64_t n,
                                       int64_t channels, float *restrict to, int64_t length)
{
    for (int64_t v = 0; v < n; v += HN_CONV3D_STEP) { /* a part that stays in the cache */
        const int64_t end = n - v < HN_CONV3D_STEP ? n : v + HN_CONV3D_STEP;
        for (int64_t c = 0; c < channels; c++)
            for (int64_t i = v; i < end; i++) to[c * length + i] = p[i * ld + c];
    }
}

HN_MULTIVERSION static void planes_bf16(const hn_bf16 *restrict p, int64_t ld, int64_t n,
                                        int64_t channels, float *restrict to, int64_t length)
{
    for (int64_t v = 0; v < n; v += HN_CONV3D_STEP) {
        const int64_t end = n - v < HN_CONV3D_STEP ? n : v + HN_CONV3D_STEP;
        for (int64_t c = 0; c < channels; c++)
            for (int64_t i = v; i < end; i++) to[c * length + i] = hn_bf16_to_f32(p[i * ld + c]);
    }
}

void hn_conv3d_planes_(const void *p, hn_dtype t, int64_t at, int64_t ld, int64_t n,
                       int64_t channels, float *to, int64_t length)
{
    if (t == HN_F32)
        planes_f32((const float *)p + at * ld, ld, n, channels, to, length);
    else
        planes_bf16((const hn_bf16 *)p + at * ld, ld, n, channels, to, length);
}

/* to[c][0 .. length) = places low .. low + length of the row, zeros outside it. */
static void copy_window(const hn_conv3d_lines_ *s, int64_t row, float *to)
{
    const hn_conv3d_view_ *const v = s->view;
    const int64_t size = v->axis[2].source, behind = size - s->low;
    const int64_t first = s->low < 0 ? (-s->low < s->length ? -s->low : s->length) : 0;
    const int64_t end = behind < first ? first : behind < s->length ? behind : s->length;
    for (int64_t c = 0; c < v->channels; c++) {
        float *const line = to + c * s->length;
        memset(line, 0, (size_t)first * sizeof(float));
        memset(line + end, 0, (size_t)(s->length - end) * sizeof(float));
    }
    if (end > first)
        hn_conv3d_planes_(v->p, v->dtype, row * size + s->low + first, v->ld, end - first,
                          v->channels, to + first, s->length);
}

/* to[t][c][u] = what place u sees of the row through tap t. */
static void copy_taps(const hn_conv3d_lines_ *s, int64_t row, float *to)
{
    const hn_conv3d_view_ *const v = s->view;
    const hn_conv3d_axis_ *const a = &v->axis[2];
    memset(to, 0, (size_t)s->row_floats * sizeof(float));
    for (int64_t t = 0; t < a->taps; t++)
        for (int64_t u = 0; u < a->result; u++) {
            const int64_t at = hn_conv3d_place_(a, u, t);
            if (at < 0) continue;
            for (int64_t c = 0; c < v->channels; c++)
                to[(t * v->channels + c) * s->length + u] =
                    hn_get_f32(v->p, v->dtype, (row * a->source + at) * v->ld + c);
        }
}

/* Where row j of a plane lies that tap u sees: rows that one line sees have different places. */
static int64_t place_of_row(const hn_conv3d_axis_ *a, int64_t j, int64_t u)
{
    return moves_by_one(a) ? j / magnitude(a->step) % a->taps : u;
}

static const float *row_of(hn_conv3d_lines_ *s, int64_t plane_tap, int64_t place, int64_t row)
{
    const int64_t at = plane_tap * s->view->axis[1].taps + place;
    float *const to = s->rows + at * s->row_floats;
    if (s->held[at] == row) return to;
    if (s->windows)
        copy_window(s, row, to);
    else
        copy_taps(s, row, to);
    s->held[at] = row;
    return to;
}

void hn_conv3d_lines_see_(hn_conv3d_lines_ *s, const hn_conv3d_line_ *l)
{
    const hn_conv3d_view_ *const v = s->view;
    const hn_conv3d_axis_ *const down = &v->axis[0], *const rows = &v->axis[1];
    const hn_conv3d_axis_ *const across = &v->axis[2];
    int64_t k = 0;
    for (int64_t r = 0; r < down->taps; r++)
        for (int64_t u = 0; u < rows->taps; u++) {
            const int64_t i = hn_conv3d_place_(down, l->plane, r);
            const int64_t j = hn_conv3d_place_(rows, l->row, u);
            const float *row = NULL;
            if (i >= 0 && j >= 0)
                row = row_of(s, r, place_of_row(rows, j, u),
                             (l->volume * down->source + i) * rows->source + j);
            for (int64_t t = 0; t < across->taps; t++) {
                const int64_t shift = s->windows ? across->first + t * across->step - s->low
                                                 : t * v->channels * s->length;
                for (int64_t c = 0; c < v->channels; c++)
                    s->array[k++] = row ? row + c * s->length + shift : s->zeros;
            }
        }
    while (k < s->count) s->array[k++] = s->zeros;
}

hn_conv3d_line_ hn_conv3d_line_at_(const hn_conv3d_view_ *v, int64_t number)
{
    const hn_conv3d_axis_ *const a = &v->axis[1];
    const int64_t rows = a->result, plane = number / rows, at = number % rows;
    const int64_t period = moves_by_one(a) ? magnitude(a->step) : 1;
    const int64_t each = rows / period, longer = rows % period; /* so many have one row more */
    hn_conv3d_line_ l = {.volume = plane / v->axis[0].result, .plane = plane % v->axis[0].result};
    if (at < longer * (each + 1))
        l.row = at / (each + 1) + at % (each + 1) * period;
    else
        l.row =
            longer + (at - longer * (each + 1)) / each + (at - longer * (each + 1)) % each * period;
    return l;
}
