#include "runtime/train/decoder_job.h"

#include <inttypes.h>
#include <string.h>

#include "kernels/loss/linear_ce.h"
#include "runtime/base/alloc.h"
#include "runtime/graph/tensor.h"

/* Rows of logits alive at a time. With 151,936 tokens: 0.29 GiB on the CPU; on a GPU 2.3 GiB in f32
 * and half of that in bf16, for products large enough to fill it. */
enum { CHUNK_ROWS_CPU = 512, CHUNK_ROWS_CUDA = 4096 };

enum { TOKENS, LABELS, POSITIONS, OFFSETS, N_FIELDS };

hn_attention_impl hn_attention_of(const char *name)
{
    if (strcmp(name, "hone") == 0) return HN_ATTENTION_OWN;
    if (strcmp(name, "cudnn") == 0) return HN_ATTENTION_CUDNN;
    return strcmp(name, "fast") == 0 ? HN_ATTENTION_CUDNN_FAST : HN_ATTENTION_AUTO;
}

static const hn_decoder_job *decoder(const hn_job *j) { return (const hn_decoder_job *)j; }

static hn_status declare(const hn_job *j, hn_params *p)
{
    return hn_decoder_declare(decoder(j)->o.decoder, p);
}

static hn_status tables(hn_job *j, hn_program *p)
{
    hn_decoder_job *d = (hn_decoder_job *)j;
    const int64_t rows = d->o.logits_rows;
    const int64_t positions = d->o.seq_len > rows ? d->o.seq_len : rows;
    const hn_type ids = hn_type_1d(HN_I32, rows), offsets = hn_type_1d(HN_I32, 2);
    HN_TRY(hn_decoder_tables_new(d->o.decoder, p, positions, &d->tables));
    if (rows == 0) return HN_OK;
    HN_TRY(hn_program_tensor(p, HN_MEM_INPUT, "logits.tokens", &ids, &d->probe.tokens));
    HN_TRY(hn_program_tensor(p, HN_MEM_INPUT, "logits.positions", &ids, &d->probe.positions));
    return hn_program_tensor(p, HN_MEM_INPUT, "logits.offsets", &offsets, &d->probe.offsets);
}

static hn_status fill(const hn_job *j)
{
    return hn_decoder_tables_fill(decoder(j)->o.decoder, &decoder(j)->tables);
}

static hn_decoder_build builder(const hn_decoder_job *d, const hn_job_pass *pass)
{
    return (hn_decoder_build){.loss_chunk_rows = pass->gpu ? CHUNK_ROWS_CUDA : CHUNK_ROWS_CPU,
                              .decoder = d->o.decoder,
                              .params = pass->params,
                              .tables = &d->tables,
                              .attention = d->o.attention,
                              .longest = d->o.seq_len,
                              .even = d->o.even_rows,
                              .recompute = pass->recompute};
}

static hn_status loss(hn_job *j, const hn_job_pass *pass, hn_graph *g, const hn_job_sums *sums)
{
    const hn_decoder_build b = builder(decoder(j), pass);
    hn_tensor *const *in = pass->in, *hidden;
    const hn_llama_input input = {in[TOKENS], in[POSITIONS], in[OFFSETS], NULL};
    HN_TRY(hn_decoder_hidden(&b, g, &input, &hidden));
    return hn_decoder_loss(&b, g, hidden, in[LABELS], sums->loss, sums->count);
}

static hn_status probe(hn_job *j, const hn_job_pass *pass, hn_graph *g)
{
    hn_decoder_job *d = (hn_decoder_job *)j;
    const hn_llama_input in = {d->probe.tokens, d->probe.positions, d->probe.offsets, NULL};
    hn_decoder_build b = builder(d, pass);
    hn_tensor *hidden;
    b.longest = d->o.logits_rows;
    b.even = false;
    HN_TRY(hn_decoder_hidden(&b, g, &in, &hidden));
    HN_TRY(hn_decoder_logits_of(&b, g, hidden, &d->probe.logits));
    hn_graph_keep(d->probe.logits);
    return HN_OK;
}

/* No sequence, no trained token. */
static void empty(const hn_job *j, void *const *field)
{
    int32_t *const labels = field[LABELS];
    for (int k = 0; k < N_FIELDS; k++) memset(field[k], 0, hn_type_bytes(&j->field[k].type));
    for (int64_t i = 0; i < j->rows; i++) labels[i] = HN_LABEL_IGNORED;
}

void hn_decoder_job_init(hn_decoder_job *j, const hn_decoder_options *o)
{
    const int64_t rows = o->batch_rows * o->seq_len;
    const hn_type row = hn_type_1d(HN_I32, rows), offsets = hn_type_1d(HN_I32, o->max_seqs + 1);
    *j = (hn_decoder_job){.job = {.rows = rows,
                                  .layers = o->decoder->layers,
                                  .n_fields = N_FIELDS,
                                  .field = {[TOKENS] = {"tokens", row},
                                            [LABELS] = {"labels", row},
                                            [POSITIONS] = {"positions", row},
                                            [OFFSETS] = {"offsets", offsets}},
                                  .declare = declare,
                                  .tables = tables,
                                  .fill = fill,
                                  .loss = loss,
                                  .probe = o->logits_rows > 0 ? probe : NULL,
                                  .empty = empty},
                          .o = *o};
}

hn_decoder_batch hn_decoder_batch_of(const hn_engine_input *in)
{
    return (hn_decoder_batch){in->field[TOKENS], in->field[LABELS], in->field[POSITIONS],
                              in->field[OFFSETS]};
}

hn_status hn_decoder_logits(const hn_decoder_job *j, hn_engine *e, const int32_t *tokens,
                            int64_t rows, const hn_tensor **logits)
{
    const int64_t most = j->o.logits_rows;
    if (rows < 1 || rows > most)
        return HN_FAIL(HN_ERR_ARG, "%" PRId64 " rows of logits, 1 to %" PRId64, rows, most);
    const size_t bytes = (size_t)most * sizeof(int32_t);
    const int32_t offset[] = {0, (int32_t)rows};
    int32_t *id = hn_calloc(2 * (size_t)most, sizeof *id), *position = id ? id + most : NULL;
    if (id == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes of tokens", 2 * bytes);
    for (int64_t i = 0; i < rows; i++) {
        id[i] = tokens[i];
        position[i] = (int32_t)i;
    }
    hn_status st = hn_tensor_write(j->probe.tokens, 0, id, bytes);
    if (st == HN_OK) st = hn_tensor_write(j->probe.positions, 0, position, bytes);
    if (st == HN_OK) st = hn_tensor_write(j->probe.offsets, 0, offset, sizeof offset);
    if (st == HN_OK) st = hn_engine_probe(e);
    hn_free(id);
    HN_TRY(st);
    *logits = j->probe.logits;
    return HN_OK;
}
