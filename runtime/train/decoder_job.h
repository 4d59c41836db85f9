/* decoder_job.h - a decoder as a job of the engine: rows of tokens, cross-entropy of the next one.
 *
 * Micro-batches of batch_rows rows of seq_len tokens; each row holds whole sequences. Logits for
 * verification come from a graph of their own (hn_decoder_logits). */
#ifndef HN_DECODER_JOB_H
#define HN_DECODER_JOB_H
#include "runtime/model/decoder.h"
#include "runtime/train/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const hn_decoder *decoder;             /* must outlive the job */
    int64_t batch_rows, seq_len, max_seqs; /* of a micro-batch; 0 rows: no batch */
    hn_attention_impl attention;
    bool even_rows; /* a row of a batch is one sequence and what pads it: attention may take them
                     * to be one, which is faster (attention.h) */
    int64_t logits_rows; /* tokens of hn_decoder_logits; 0: none */
} hn_decoder_options;

/* auto, hone, cudnn, fast. */
hn_attention_impl hn_attention_of(const char *name);

typedef struct {
    hn_job job;
    hn_decoder_options o;
    hn_llama_tables tables;
    struct {
        hn_tensor *tokens, *positions, *offsets, *logits;
    } probe;
} hn_decoder_job;

/* The job must stay where it is while an engine has it. */
void hn_decoder_job_init(hn_decoder_job *j, const hn_decoder_options *o);

/* The fields of a micro-batch. Every one is the caller's to fill, wholly, before a call. */
typedef struct {
    int32_t *tokens, *labels, *positions; /* [batch_rows * seq_len]; label -100: ignored */
    int32_t *offsets;                     /* [max_seqs + 1], ascending from 0 */
} hn_decoder_batch;

hn_decoder_batch hn_decoder_batch_of(const hn_engine_input *in);

/* Logits of one sequence of 1 to logits_rows tokens: [rows, vocab], valid until the next call.
 * Errors: HN_ERR_ARG, and those of running */
HN_NODISCARD hn_status hn_decoder_logits(const hn_decoder_job *j, hn_engine *e,
                                         const int32_t *tokens, int64_t rows,
                                         const hn_tensor **logits);

#ifdef __cplusplus
}
#endif
#endif
