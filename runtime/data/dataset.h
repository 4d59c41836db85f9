/* dataset.h - from data files to tokens: the first half of the one dataset loader.
 *
 * data       .txt, .jsonl, .json (each also .gz), several separated by commas, or a folder with
 *            train.* and, for held-out data, valid.* (validation.*, eval.*, dev.*)
 * held out   eval_data: files of the same kinds; else eval_split: the last share of the bytes of
 *            plain text, cut at a line end, or of the rows; else the folder's valid file; else none
 * formats    template.h; masks: token_cache_build.h
 * cache      <cache_dir>/<key>.tokens, the key being the SHA-256 of the data's bytes, the
 * tokenizer's digest, format, columns and all settings that decide about tokens, and the version of
 *            of the file. A damaged file is built again, with a warning; nothing removes old ones.
 *
 * Both parts see the same bytes and the same options, so a data set is a function of them and of
 * the tokenizer: not of threads, paths or the cache.
 *
 * Errors     HN_ERR_FORMAT "no rows", "no trained tokens"; those of source.h, template.h,
 *            token_cache.h and token_cache_build.h
 */
#ifndef HN_DATASET_H
#define HN_DATASET_H
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/log.h"
#include "runtime/data/source.h"
#include "runtime/data/template.h"
#include "runtime/data/token_cache.h"
#include "runtime/data/token_cache_build.h"
#include "runtime/data/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *data;
    const char *eval_data; /* NULL: see above */
    double eval_split;     /* 0: see above; else between 0 and 1 */
    hn_template format;    /* zeros: detected, usual columns */
    bool train_on_prompt;
    bool parse_special;    /* special tokens written in the data count as such */
    int threads;           /* of the tokenizer; 0: one a processor, at most 16 */
    const char *cache_dir; /* NULL: $XDG_CACHE_HOME/hone or ~/.cache/hone, or memory with a
                            * warning when that cannot be written; "off": memory */
    hn_source_limits limits;
    const hn_log *log; /* NULL: silence */
    hn_data_tell tell; /* progress of tokenising; NULL: nobody */
    void *tell_context;
} hn_dataset_options;

typedef struct hn_dataset hn_dataset;

/* train    NULL: not wanted
 * eval     NULL: not wanted; *eval is NULL when no data are held out
 * Both are changed only on success; hn_dataset_free frees them. */
HN_NODISCARD hn_status hn_dataset_open(const hn_dataset_options *o, const hn_tokenizer *t,
                                       hn_dataset **train, hn_dataset **eval);
/* A data set from tokens at hand (copied): words as in token_cache.h, offset [n_samples + 1].
 * continues   samples longer than a row go on in the next one (text), or are cut off there
 * Errors  HN_ERR_ARG when offsets do not rise from 0; HN_ERR_FORMAT "no trained tokens" */
HN_NODISCARD hn_status hn_dataset_from_words(const int32_t *word, const int64_t *offset,
                                             int64_t n_samples, bool continues, hn_dataset **out);
void hn_dataset_free(hn_dataset *d); /* accepts NULL */

const hn_token_cache *hn_dataset_tokens(const hn_dataset *d);
const hn_token_stats *hn_dataset_stats(const hn_dataset *d);
hn_data_format hn_dataset_format(const hn_dataset *d);
bool hn_dataset_continues(const hn_dataset *d);
const char *hn_dataset_digest(const hn_dataset *d); /* the cache's key: what a resume compares */
const char *hn_dataset_name(const hn_dataset *d);   /* "data/train.jsonl", "held-out 10 % of ..." */

/* Says in a few lines what is in the data: rows, dropped rows and why, tokens, trained share,
 * unknown characters. */
void hn_dataset_report(const hn_dataset *d, const hn_log *log);

#ifdef __cplusplus
}
#endif
#endif
