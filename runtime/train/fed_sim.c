/* What all simulations of clients share: the order of a client's images, and which values travel.
 */
#include "runtime/train/fed_sim.h"

#include "runtime/base/rng.h"
#include "runtime/data/row_order.h"

/* SplitMix64's finaliser: neighbours have nothing in common. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t hn_fed_task_seed(uint64_t seed, int64_t round, int64_t client)
{
    const uint64_t golden = 0x9e3779b97f4a7c15u;
    const uint64_t z = mix(seed + golden * ((uint64_t)round + 1));
    return mix(z + golden * ((uint64_t)client + 1));
}

static int64_t batches(int64_t rows, int64_t batch) { return rows / batch + (rows % batch != 0); }

int64_t hn_fed_steps(const hn_fed_local *l, int64_t n, int64_t epochs)
{
    return l->join ? batches(n * epochs, l->batch) : batches(n, l->batch) * epochs;
}

int64_t hn_fed_epoch_steps(const hn_fed_local *l, int64_t n) { return batches(n, l->batch); }

int64_t hn_fed_rows(const hn_fed_local *l, const hn_fed_task *t, int64_t step, int32_t *image)
{
    const hn_row_order order = hn_row_order_make(t->seed, hn_hash_name("client"), t->n);
    const int64_t each = hn_fed_epoch_steps(l, t->n);
    int64_t rows = 0;
    for (int64_t i = 0; i < l->batch; i++) {
        const int64_t at = l->join ? step * l->batch + i : step % each * l->batch + i;
        const int64_t epoch = l->join ? at / t->n : step / each;
        const int64_t in_epoch = l->join ? at % t->n : at;
        image[i] = in_epoch < t->n ? t->index[hn_row_order_at(&order, epoch, in_epoch)] : -1;
        rows += image[i] >= 0;
    }
    return rows;
}

/* ---- values ---- */

bool hn_fed_travels(const hn_param *q) { return q->trained || q->buffer; }

int64_t hn_fed_values_count(const hn_params *p)
{
    int64_t n = 0;
    for (int64_t i = 0; i < hn_params_count(p); i++)
        if (hn_fed_travels(hn_params_at(p, i))) n += hn_param_values(hn_params_at(p, i));
    return n;
}

hn_status hn_fed_values_layout(const hn_params *p, hn_fed_layout *out)
{
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        const hn_fed_role role = q->buffer ? HN_FED_BUFFER : HN_FED_VALUE;
        if (hn_fed_travels(q))
            HN_TRY(hn_fed_layout_add(out, q->name, q->file_ndim, q->file_dim, role));
    }
    return HN_OK;
}

hn_status hn_fed_values_get(const hn_params *p, float *value)
{
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (!hn_fed_travels(q)) continue;
        HN_TRY(hn_param_get(q, value));
        value += hn_param_values(q);
    }
    return HN_OK;
}

hn_status hn_fed_values_set(const hn_params *p, const float *value)
{
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (!hn_fed_travels(q)) continue;
        HN_TRY(hn_param_set(q, value));
        value += hn_param_values(q);
    }
    return HN_OK;
}
