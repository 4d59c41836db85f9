/* token_cache.h - the tokens of a data set: in memory, or mapped from a file.
 *
 * A word is one token with its mask: the id when the token is a target of the loss, the
 * complement (~id, negative) when it is not. Sample i is the words offset[i] .. offset[i+1]-1.
 *
 * File (little-endian, written front to back, then renamed into place):
 *   16 bytes          "hone tokens 1\n\0\0"
 *   words             int32[n_words], then zeros to a multiple of 8 bytes
 *   offsets           int64[n_samples + 1]
 *   stats             hn_token_stats, all int64
 *   trailer           int64 n_words, n_samples; 64 hex digits of the key;
 *                     64 hex digits: SHA-256 of all bytes before them
 * The counts stand at the end, since they are known last.
 *
 * Loading checks size, magic, key, digest, that offsets rise from 0 to n_words, and that ids lie
 * below the vocabulary's size.
 */
#ifndef HN_TOKEN_CACHE_H
#define HN_TOKEN_CACHE_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/mapfile.h"
#include "runtime/base/save.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_UNK_TOP = 8 };

static inline int32_t hn_word_id(int32_t word) { return word < 0 ? ~word : word; }
static inline int32_t hn_word_make(int32_t id, int trained) { return trained ? id : ~id; }

/* All members are int64: the struct goes into the file as it is. */
typedef struct {
    int64_t rows;           /* read: rows, or documents of plain text */
    int64_t dropped_empty;  /* no text, or an empty completion */
    int64_t dropped_masked; /* no trained token (every label -100, or a single token) */
    int64_t samples, tokens, trained;
    int64_t token_min, token_median, token_p95, token_max; /* of a sample */
    int64_t joined;    /* rows whose prompt's last token also holds text of the completion */
    int64_t unk_id;    /* -1: the vocabulary has none */
    int64_t unk;       /* unknown tokens in the data; EOS behind them is none */
    int64_t unk_kinds; /* different characters that the vocabulary lacks */
    int64_t unk_char[HN_UNK_TOP];  /* code points, most frequent first; -1: no more */
    int64_t unk_count[HN_UNK_TOP]; /* how often that character occurs */
} hn_token_stats;

typedef struct {
    const int32_t *word;   /* [n_words] */
    const int64_t *offset; /* [n_samples + 1] */
    int64_t n_words, n_samples;
    hn_token_stats stats;
    hn_mapfile map; /* empty: the arrays are owned */
    void *own_word, *own_offset;
} hn_token_cache;

void hn_token_cache_free(hn_token_cache *c); /* accepts an empty one */

/* key      64 hex digits that the file must carry
 * Errors   HN_ERR_IO (not there, unreadable), HN_ERR_FORMAT (damaged or another key) */
HN_NODISCARD hn_status hn_token_cache_load(const char *path, const char *key, int64_t vocab,
                                           hn_token_cache *out);

typedef struct hn_token_writer hn_token_writer;

/* path     NULL: keep everything in memory */
HN_NODISCARD hn_status hn_token_writer_open(const char *path, const char *key,
                                            hn_token_writer **out);
/* Appends words to the sample that is being written. */
HN_NODISCARD hn_status hn_token_writer_add(hn_token_writer *w, const int32_t *word, int64_t n);
/* Ends it; a sample without words does not count. */
HN_NODISCARD hn_status hn_token_writer_end_sample(hn_token_writer *w);
int64_t hn_token_writer_samples(const hn_token_writer *w);
/* Fills in samples, tokens and the four lengths of *stats, writes or hands over everything, and
 * frees w in every case. With a path, out is loaded from the finished file. */
HN_NODISCARD hn_status hn_token_writer_finish(hn_token_writer *w, hn_token_stats *stats,
                                              int64_t vocab, hn_token_cache *out);
void hn_token_writer_abort(hn_token_writer *w); /* accepts NULL */

#ifdef __cplusplus
}
#endif
#endif
