/* The part of a session that reads text: tokenizer, rows of tokens, the job of a decoder. */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/rng.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/session_impl.h"

enum {
    DEFAULT_SEQ_LEN = 1024,
    PROBE_TOKENS = 32 /* at most: a model may have fewer positions */
};

void hn_text_close(hn_text_session *t)
{
    hn_loader_free(t->train_loader);
    hn_loader_free(t->eval_loader);
    hn_dataset_free(t->train_data);
    hn_dataset_free(t->eval_data);
    hn_tokenizer_free(t->tokenizer);
}

hn_status hn_session_tokenizer(hn_session *s)
{
    const char *path = s->run->tokenizer;
    char *folder = NULL;
    if (path[0] == '\0' && !s->model.whole) { /* beside the config.json */
        const char *slash = strrchr(s->run->model, '/');
        folder =
            slash ? hn_strndup(s->run->model, (size_t)(slash - s->run->model) + 1) : hn_strdup(".");
        if (folder == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the tokenizer's path");
        path = folder;
    }
    const hn_status st = hn_tokenizer_load(path[0] ? path : s->run->model, &s->text.tokenizer);
    hn_free(folder);
    HN_TRY(st);
    if (hn_tokenizer_vocab_size(s->text.tokenizer) > s->model.decoder.vocab)
        return HN_FAIL(HN_ERR_SHAPE,
                       "tokenizer %s has %" PRId64 " tokens, the model's vocabulary %" PRId64,
                       hn_tokenizer_source(s->text.tokenizer),
                       hn_tokenizer_vocab_size(s->text.tokenizer), s->model.decoder.vocab);
    hn_info(&s->log, "tokenizer: %s, %" PRId64 " tokens", hn_tokenizer_source(s->text.tokenizer),
            hn_tokenizer_vocab_size(s->text.tokenizer));
    return HN_OK;
}

static hn_status open_loader(hn_session *s, const hn_dataset *d, bool once, hn_loader **out)
{
    const int32_t eos = hn_tokenizer_eos(s->text.tokenizer);
    const hn_loader_options o = {.batch_rows = s->run->batch_size,
                                 .seq_len = s->text.seq_len,
                                 .seed = (uint64_t)s->run->seed,
                                 .world = 1,
                                 .shuffle = !once,
                                 .packing = s->run->packing,
                                 .once = once,
                                 .pad_id = eos >= 0 ? eos : 0};
    HN_TRY(hn_loader_open(d, &o, out));
    if (hn_loader_max_seqs(*out) > s->text.max_seqs) s->text.max_seqs = hn_loader_max_seqs(*out);
    s->text.several_pieces |= hn_loader_stats(*out)->most_pieces > 1;
    return HN_OK;
}

/* Out of the options and the model's positions. */
static hn_status settle_seq_len(hn_session *s)
{
    const int64_t limit = s->model.decoder.max_positions;
    s->text.seq_len = s->run->seq_len;
    if (s->text.seq_len == 0) s->text.seq_len = limit < DEFAULT_SEQ_LEN ? limit : DEFAULT_SEQ_LEN;
    if (s->text.seq_len > limit)
        return HN_FAIL(HN_ERR_SHAPE, "--seq-len %" PRId64 ": the model has %" PRId64 " positions",
                       s->text.seq_len, limit);
    return HN_OK;
}

static void tell_tokens(void *context, const hn_data_progress *p)
{
    hn_session *s = context;
    const int64_t done = (int64_t)(p->share * 1000);
    if (s->progress.total != 1000) hn_session_progress(s, "tokenising", "rows", 1000);
    hn_session_show(s, done, p->rows);
    if (done >= 1000) s->progress.total = 0;
}

/* When all loaders are open: micro-batches of both have room for the most sequences. */
static hn_status make_feeds(hn_session *s)
{
    if (s->text.train_loader)
        HN_TRY(hn_decoder_feed_new(s->text.train_loader, s->text.max_seqs, &s->train));
    if (s->text.eval_loader)
        HN_TRY(hn_decoder_feed_new(s->text.eval_loader, s->text.max_seqs, &s->eval));
    return HN_OK;
}

hn_status hn_text_open(hn_session *s, bool held_out_only)
{
    const hn_run_config *c = s->run;
    hn_dataset_options o = {.data = c->data,
                            .eval_data = hn_text_or_null(c->eval_data),
                            .eval_split = c->eval_split,
                            .format = {.text_key = hn_text_or_null(c->text_key),
                                       .prompt_key = hn_text_or_null(c->prompt_key),
                                       .completion_key = hn_text_or_null(c->completion_key)},
                            .train_on_prompt = c->train_on_prompt,
                            .threads = (int)c->data_threads,
                            .cache_dir = strcmp(c->cache_dir, "auto") == 0 ? NULL : c->cache_dir,
                            .log = &s->log,
                            .tell = tell_tokens,
                            .tell_context = s};
    HN_TRY(hn_data_format_parse(c->format, &o.format.format));
    HN_TRY(hn_session_tokenizer(s));
    HN_TRY(settle_seq_len(s));
    if (held_out_only) {
        const bool split = o.eval_data || o.eval_split > 0;
        HN_TRY(split ? hn_dataset_open(&o, s->text.tokenizer, NULL, &s->text.eval_data)
                     : hn_dataset_open(&o, s->text.tokenizer, &s->text.eval_data, NULL));
    } else {
        HN_TRY(hn_dataset_open(&o, s->text.tokenizer, &s->text.train_data, &s->text.eval_data));
        hn_dataset_report(s->text.train_data, &s->log);
        HN_TRY(open_loader(s, s->text.train_data, false, &s->text.train_loader));
        hn_loader_report(s->text.train_loader, &s->log);
    }
    if (s->text.eval_data != NULL) {
        hn_dataset_report(s->text.eval_data, &s->log);
        HN_TRY(open_loader(s, s->text.eval_data, true, &s->text.eval_loader));
    }
    return make_feeds(s);
}

hn_status hn_text_job(hn_session *s, bool probe, bool dry)
{
    const hn_run_config *c = s->run;
    const int64_t positions = s->model.decoder.max_positions;
    if (dry) HN_TRY(settle_seq_len(s));
    const hn_decoder_options o = {
        .decoder = &s->model.decoder,
        .batch_rows = dry || s->train || s->eval ? c->batch_size : 0,
        .seq_len = s->text.seq_len,
        .max_seqs = dry ? 2 * c->batch_size : s->text.max_seqs,
        .attention = hn_attention_of(c->attention),
        .even_rows = !dry && !s->text.several_pieces,
        .logits_rows = !probe                     ? 0
                       : positions < PROBE_TOKENS ? positions
                                                  : PROBE_TOKENS,
    };
    hn_decoder_job_init(&s->text.job, &o);
    s->job = &s->text.job.job;
    return HN_OK;
}

hn_status hn_text_probe(hn_session *s, float **out, int64_t *n)
{
    int32_t tokens[PROBE_TOKENS];
    const int64_t vocab = s->model.decoder.vocab, rows = s->text.job.o.logits_rows;
    const hn_rng r = hn_rng_make(1, 0, hn_hash_name("export probe"));
    for (int64_t i = 0; i < rows; i++)
        tokens[i] = (int32_t)hn_rng_below(r, 0, (uint32_t)i, (uint64_t)vocab);
    const hn_tensor *t;
    HN_TRY(hn_decoder_logits(&s->text.job, s->engine, tokens, rows, &t));
    float *v = hn_malloc((size_t)(rows * vocab) * sizeof *v);
    if (v == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " logits to compare", rows * vocab);
    const hn_status st = hn_tensor_get(t, v);
    if (st != HN_OK) {
        hn_free(v);
        return st;
    }
    *out = v;
    *n = rows * vocab;
    return HN_OK;
}
