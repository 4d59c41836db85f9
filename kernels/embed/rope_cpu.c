#include "kernels/embed/rope.h"

#include <inttypes.h>

#include "runtime/base/check.h"

hn_status hn_rope_check_shapes(const hn_rope_args *a)
{
    HN_TRY(hn_check_pointer("rope", "args", a));
    HN_TRY(hn_check_float("rope", "dtype", a->dtype));
    const int64_t rotary = a->rotary_dim ? a->rotary_dim : a->head_dim;
    if (a->heads < 1 || a->heads > INT32_MAX || a->head_dim < 1 || a->head_dim > INT32_MAX ||
        rotary < 2 || rotary % 2 != 0 || rotary > a->head_dim)
        return HN_FAIL(HN_ERR_SHAPE,
                       "rope: %" PRId64 " heads of %" PRId64 ", of which %" PRId64
                       " turn: the last must be even, 2 to head_dim",
                       a->heads, a->head_dim, rotary);
    const int64_t width = a->heads * a->head_dim;
    HN_TRY(hn_check_matrix("rope", "x", a->x, a->rows, width, a->ld_x));
    HN_TRY(hn_check_matrix("rope", "y", a->y, a->rows, width, a->ld_y));
    HN_TRY(hn_check_matrix("rope", "cos", a->cos, a->n_positions, rotary / 2, a->ld_table));
    HN_TRY(hn_check_pointer("rope", "sin", a->sin));
    HN_TRY(hn_check_pointer("rope", "position", a->position));
    return hn_check_in_place("rope", a->x, a->ld_x, a->y, a->ld_y);
}

hn_status hn_rope_check(const hn_rope_args *a)
{
    HN_TRY(hn_rope_check_shapes(a));
    for (int64_t i = 0; i < a->rows; i++)
        if (a->position[i] < 0 || a->position[i] >= a->n_positions)
            return HN_FAIL(HN_ERR_ARG,
                           "rope: position %" PRId32 " in row %" PRId64 " is not in [0, %" PRId64
                           ")",
                           a->position[i], i, a->n_positions);
    return HN_OK;
}

/* The head whose first column has index x_at in x and y_at in y; t_at is its row in the tables. */
static void turn(const hn_rope_args *a, int64_t x_at, int64_t y_at, int64_t t_at)
{
    const int64_t rotary = a->rotary_dim ? a->rotary_dim : a->head_dim, half = rotary / 2;
    for (int64_t k = 0; k < half; k++) {
        const int64_t first = a->interleaved ? 2 * k : k;
        const int64_t second = a->interleaved ? 2 * k + 1 : k + half;
        const float c = a->cos[t_at + k], s = a->inverse ? -a->sin[t_at + k] : a->sin[t_at + k];
        const float u = hn_get_f32(a->x, a->dtype, x_at + first);
        const float v = hn_get_f32(a->x, a->dtype, x_at + second);
        hn_set_f32(a->y, a->dtype, y_at + first, u * c - v * s);
        hn_set_f32(a->y, a->dtype, y_at + second, v * c + u * s);
    }
    for (int64_t k = rotary; k < a->head_dim; k++)
        hn_set_f32(a->y, a->dtype, y_at + k, hn_get_f32(a->x, a->dtype, x_at + k));
}

hn_status hn_rope_cpu(const hn_rope_args *a)
{
    HN_TRY(hn_rope_check(a));
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t h = 0; h < a->heads; h++)
            turn(a, i * a->ld_x + h * a->head_dim, i * a->ld_y + h * a->head_dim,
                 a->position[i] * a->ld_table);
    return HN_OK;
}
