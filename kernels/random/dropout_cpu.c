#include "kernels/random/dropout.h"

#include "runtime/base/check.h"

hn_status hn_dropout_check_key(const char *op, const hn_dropout_key *key)
{
    if (!(key->p >= 0.0 && key->p < 1.0))
        return HN_FAIL(HN_ERR_ARG, "%s: dropout %g is not in [0, 1)", op, key->p);
    if (key->p > 0.0 && key->state == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: dropout %g without random state", op, key->p);
    return HN_OK;
}

hn_status hn_dropout_check(const hn_dropout_args *a)
{
    HN_TRY(hn_check_pointer("dropout", "args", a));
    HN_TRY(hn_check_float("dropout", "dtype", a->dtype));
    HN_TRY(hn_check_matrix("dropout", "x", a->x, a->rows, a->cols, a->ld_x));
    HN_TRY(hn_check_matrix("dropout", "y", a->y, a->rows, a->cols, a->ld_y));
    HN_TRY(hn_check_in_place("dropout", a->x, a->ld_x, a->y, a->ld_y));
    return hn_dropout_check_key("dropout", &a->key);
}

hn_dropout_now hn_dropout_read(const hn_dropout_key *key)
{
    const hn_rng_state none = {0};
    const hn_rng_state *const s = key->state ? key->state : &none;
    return (hn_dropout_now){.rng = hn_rng_make(s->seed, s->step, key->op_hash),
                            .row0 = (uint64_t)s->row_offset,
                            .threshold = hn_rng_drop_threshold(key->p),
                            .scale = (float)(1.0 / (1.0 - key->p))};
}

hn_status hn_dropout_cpu(const hn_dropout_args *a)
{
    HN_TRY(hn_dropout_check(a));
    const hn_dropout_now d = hn_dropout_read(&a->key);
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++) {
            const float x = hn_get_f32(a->x, a->dtype, i * a->ld_x + j);
            const float y = hn_dropout_element(&d, i, j, x);
            hn_set_f32(a->y, a->dtype, i * a->ld_y + j, y);
        }
    return HN_OK;
}
