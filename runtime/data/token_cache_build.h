/* token_cache_build.h - tokenise the rows of a source with several threads.
 *
 * Tokens of a sample
 *   text        prefix, text, EOS              every token but the first is trained
 *   prompt      prefix, prompt + completion, EOS     completion and EOS are trained, and the
 *               prompt with train_on_prompt; never the first token
 *   tokens      as they are in the row
 * prefix is what the tokenizer puts in front by itself (BOS or nothing). EOS is left out when the
 * vocabulary has none, and behind a text that was cut for a held-out part.
 *
 * Prompt and completion are tokenised as one text, so the completion reads as it would in any
 * text; trained are the tokens from the first one that differs from the prompt's own tokens.
 * Where the prompt's last token absorbs the completion's first characters it is trained too, and
 * counted as `joined`.
 *
 * Repeats   the same words whatever the number of threads: they work on ranges of rows, which are
 *           put together in order.
 * Memory    a few ranges of 256 KiB of text or one row for each thread, and their tokens.
 * Errors    those of the source, the template and the tokenizer, for the first row that has one;
 *           HN_ERR_THREAD; HN_ERR_MEMORY.
 */
#ifndef HN_TOKEN_CACHE_BUILD_H
#define HN_TOKEN_CACHE_BUILD_H
#include <stdbool.h>
#include <stdint.h>

#include "runtime/data/source.h"
#include "runtime/data/template.h"
#include "runtime/data/token_cache.h"
#include "runtime/data/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Told after every range of rows, from the thread that called hn_token_build. */
typedef struct {
    int64_t rows;   /* done; of plain text: pieces */
    double share;   /* of the data, 0..1 */
    double seconds; /* since the start */
} hn_data_progress;
typedef void (*hn_data_tell)(void *context, const hn_data_progress *p);

typedef struct {
    hn_source *source;         /* the selection is read from its start to its end */
    const hn_template *format; /* settled */
    const hn_tokenizer *tokenizer;
    bool train_on_prompt;
    bool parse_special; /* special tokens written in the data count as such */
    int threads;        /* 0: one for each processor, at most 16 */
    hn_data_tell tell;  /* NULL: nobody */
    void *tell_context;
} hn_token_job;

/* Adds all samples to w and fills in *stats but for what hn_token_writer_finish does. */
HN_NODISCARD hn_status hn_token_build(const hn_token_job *job, hn_token_writer *w,
                                      hn_token_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
