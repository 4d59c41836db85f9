/* token_cache_row.h - one row to words: private to token_cache_row.c and token_cache_build.c. */
#ifndef HN_TOKEN_CACHE_ROW_H
#define HN_TOKEN_CACHE_ROW_H
#include "runtime/data/token_cache_build.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What is the same for all rows; read by all threads. */
typedef struct {
    const hn_token_job *job;
    bool is_text;
    hn_tokens prefix;
    int32_t eos, unk;
    int64_t vocab;
} hn_row_rule;

HN_NODISCARD hn_status hn_row_rule_make(const hn_token_job *job, hn_row_rule *out);
void hn_row_rule_free(hn_row_rule *r);

/* How often each character occurs in rows that have unknown tokens. */
typedef struct {
    uint32_t code;
    bool used, unknown; /* unknown: encoding the character alone gives the unknown token */
    int64_t count;
} hn_char_count;

/* One thread's buffers and sums. */
typedef struct {
    hn_rendered rendered;
    hn_tokens whole, prompt;
    hn_token_stats stats;
    hn_char_count *chars;       /* open addressing */
    int64_t n_chars, chars_cap; /* cap: 0 or a power of two */
} hn_row_encoder;

void hn_row_encoder_free(hn_row_encoder *e);

/* Words of a range of rows, with the places where samples end. */
typedef struct {
    int32_t *word;
    int64_t n_words, word_cap;
    int64_t *end;
    int64_t n_ends, end_cap;
} hn_row_words;

void hn_row_words_free(hn_row_words *w);

/* Appends the row's words, and its end unless the document goes on or the row is dropped. */
HN_NODISCARD hn_status hn_row_encode(const hn_row_rule *rule, hn_row_encoder *e, const hn_row *row,
                                     hn_row_words *out);

/* Sums up all threads: *stats, with the most frequent unknown characters. */
HN_NODISCARD hn_status hn_row_sum(hn_row_encoder *e, int n, const hn_row_rule *rule,
                                  hn_token_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
