#include "bench/step_blocks.h"

#include "runtime/base/alloc.h"
#include "runtime/base/rng.h"

static hn_status choose(const void *context, const char *module, int64_t in, int64_t out,
                        hn_block_shape *choice)
{
    const hn_step_blocks *b = context;
    bool matches = false;
    (void)in, (void)out;
    HN_TRY(hn_peft_matches(b->layers, module, &matches));
    if (matches) *choice = b->shape;
    return HN_OK;
}

hn_adapt hn_step_blocks_hook(const hn_step_blocks *b)
{
    return (hn_adapt){.sparse = choose, .context = b};
}

hn_status hn_step_blocks_as_pairs(const hn_step_blocks *b, const hn_job *job, int64_t rank,
                                  int64_t *values)
{
    const hn_adapt hook = hn_step_blocks_hook(b);
    hn_params *p = NULL;
    *values = 0;
    HN_TRY(hn_params_new(&hook, &p));
    const hn_status st = job->declare(job, p);
    for (int64_t i = 0; st == HN_OK && i < hn_params_linears(p); i++) {
        const hn_linear_layer *l = hn_params_linear_at(p, i);
        if (l->sparse.br > 0) *values += rank * (l->in + l->out);
    }
    hn_params_free(p);
    return st;
}

/* n of the matrix's blocks, any as likely as any other: Knuth's selection sampling. */
static void sample(const hn_sparse_matrix *m, int64_t n, uint64_t seed, int32_t *id)
{
    const hn_rng r = hn_rng_make(seed, 0, hn_hash_name(m->name));
    for (int64_t k = 0, taken = 0; taken < n; k++) {
        const uint64_t left = (uint64_t)(m->blocks - k);
        if (hn_rng_below(r, (uint64_t)k, 0, left) < (uint64_t)(n - taken)) id[taken++] = (int32_t)k;
    }
}

hn_status hn_step_blocks_choose(hn_sparse *s, uint64_t seed)
{
    const int64_t matrices = hn_sparse_matrices(s);
    int64_t *first = hn_calloc((size_t)matrices + 1, sizeof *first);
    int32_t *id = NULL;
    hn_status st = HN_OK;
    for (int64_t i = 0; first != NULL && i < matrices; i++)
        first[i + 1] = first[i] + (int64_t)hn_sparse_at(s, i)->share;
    if (first != NULL) id = hn_calloc((size_t)first[matrices] + 1, sizeof *id);
    if (id == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for the blocks of %lld matrices",
                     (long long)matrices);
        goto done;
    }
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < matrices; i++)
        sample(hn_sparse_at(s, i), first[i + 1] - first[i], seed, id + first[i]);
    const hn_block_lists lists = {first, id};
    st = hn_sparse_select(s, &lists, NULL, false);

done:
    hn_free(first);
    hn_free(id);
    return st;
}
