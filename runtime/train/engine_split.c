/* Updates of which every rank makes a share (ZeRO stage 1):
 *
 *   reduce_scatter   gradients: this rank's share becomes the sum over all ranks
 *   all_reduce       count, loss, stop
 *   grad_sums        squares of the share, by blocks; all_gather: of all; grad_scale: norm, factor
 *   optimizer        on the share; the other gradients are cleared
 *   all_gather       what graphs read
 */
#include <stdio.h>

#include "kernels/reduce/sum_squares.h"
#include "runtime/train/engine_impl.h"

/* Bytes of a class, from element `first` on. */
static hn_status bytes_of(hn_engine *e, hn_mem mem, const char *name, hn_dtype dtype, int64_t first,
                          int64_t n, hn_tensor **out)
{
    const int64_t size = (int64_t)hn_dtype_size(dtype);
    return hn_program_range(e->program, mem, name, HN_U8, first * size, n * size, out);
}

static hn_status record_norm(hn_engine *e, hn_tensor *own_grad)
{
    const hn_split *s = hn_params_split(e->params);
    const int64_t bytes = s->n / HN_SUM_BLOCK * (int64_t)sizeof(double);
    hn_tensor *sum, *own;
    HN_TRY(hn_engine_vector(e, HN_MEM_STATE, "sums of squares", HN_U8, s->ranks * bytes, &sum));
    HN_TRY(hn_program_view(e->program, "own sums of squares", sum, 0, 1, s->rank * bytes, bytes,
                           &own));
    hn_tensor *const sums[] = {own_grad, own}, *const gather[] = {own, sum};
    hn_tensor *const scale[] = {sum, hn_params_flat(e->params)->count, e->step};
    HN_TRY(hn_emit(e->update, HN_OP_GRAD_SUMS, "grad_sums", sums, NULL, NULL));
    HN_TRY(hn_emit(e->update, HN_OP_ALL_GATHER, "sums of squares", gather, NULL, NULL));
    return hn_emit(e->update, HN_OP_GRAD_SCALE, "grad_norm", scale, NULL, NULL);
}

/* Elements first .. end-1 of the flat range, as far as they are this rank's. */
static hn_status record_part(hn_engine *e, const char *name, int64_t first, int64_t end,
                             double decay)
{
    const hn_split *s = hn_params_split(e->params);
    hn_tensor *in[4] = {NULL}, *work = NULL;
    if (first < s->first) first = s->first;
    if (end > s->first + s->n) end = s->first + s->n;
    const int64_t n = end - first, at = first - s->first;
    if (n <= 0) return HN_OK;
    HN_TRY(hn_program_range(e->program, HN_MEM_TRAINED, name, HN_F32, s->master ? at : first, n,
                            &in[0]));
    HN_TRY(hn_program_range(e->program, HN_MEM_GRAD, name, HN_F32, first, n, &in[1]));
    if (s->moment[0])
        HN_TRY(hn_program_range(e->program, HN_MEM_MOMENT1, name, HN_F32, at, n, &in[2]));
    if (s->moment[1])
        HN_TRY(hn_program_range(e->program, HN_MEM_MOMENT2, name, HN_F32, at, n, &in[3]));
    if (s->master)
        HN_TRY(hn_program_range(e->program, HN_MEM_WORK, name, e->o.dtype, first, n, &work));
    return hn_engine_record_optimizer(e, name, in, work, decay);
}

/* The update has cleared its own. */
static hn_status record_clear(hn_engine *e, const char *name, int64_t first, int64_t end)
{
    hn_tensor *others;
    if (end <= first) return HN_OK;
    HN_TRY(hn_program_range(e->program, HN_MEM_GRAD, name, HN_F32, first, end - first, &others));
    return hn_engine_record_zero(e->update, others);
}

static hn_status record_gather(hn_engine *e)
{
    const hn_split *s = hn_params_split(e->params);
    const hn_mem mem = s->master ? HN_MEM_WORK : HN_MEM_TRAINED;
    const hn_dtype dtype = s->master ? e->o.dtype : HN_F32;
    hn_tensor *in[2];
    HN_TRY(bytes_of(e, mem, "own values", dtype, s->first, s->n, &in[0]));
    HN_TRY(bytes_of(e, mem, "values", dtype, 0, s->ranks * s->n, &in[1]));
    return hn_emit(e->update, HN_OP_ALL_GATHER, "values", in, NULL, NULL);
}

hn_status hn_engine_record_split_update(hn_engine *e)
{
    const hn_flat *flat = hn_params_flat(e->params);
    const hn_split *s = hn_params_split(e->params);
    hn_tensor *all, *own;
    if (e->o.anchor.weight > 0 || e->o.anchor.fisher)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "optimizer state that ranks share (ZeRO): there is an anchor");
    HN_TRY(hn_program_range(e->program, HN_MEM_GRAD, "all gradients", HN_F32, 0, flat->n, &all));
    HN_TRY(
        hn_program_range(e->program, HN_MEM_GRAD, "own gradients", HN_F32, s->first, s->n, &own));
    hn_tensor *const scatter[] = {all, own}, *const sums[] = {flat->count, e->loss, e->stop};
    HN_TRY(hn_graph_new(e->program, "update", false, &e->update));
    HN_TRY(hn_emit(e->update, HN_OP_REDUCE_SCATTER, "gradients", scatter, NULL, NULL));
    HN_TRY(hn_emit(e->update, HN_OP_ALL_REDUCE, "all_reduce", sums, NULL, NULL));
    HN_TRY(record_norm(e, own));
    HN_TRY(record_part(e, "decayed", 0, flat->n_decay, e->o.optimizer.weight_decay));
    HN_TRY(record_part(e, "not decayed", flat->n_decay, flat->n, 0));
    HN_TRY(record_clear(e, "gradients in front", 0, s->first));
    HN_TRY(record_clear(e, "gradients behind", s->first + s->n, flat->n + 1)); /* and count */
    return record_gather(e);
}

void hn_engine_split_text(const hn_engine *e, char *text, size_t size)
{
    const hn_split *s = hn_params_split(e->params);
    text[0] = '\0';
    if (s == NULL) return;
    const char *what = s->master && s->moment[0] ? "masters and moments"
                       : s->master               ? "masters"
                       : s->moment[0]            ? "moments"
                                                 : "it has no state";
    snprintf(text, size, "optimizer in %d shares, one a rank (ZeRO-1): %s\n", s->ranks, what);
}
