/* template.h - from a row's columns to the text that a model reads.
 *
 *   text               {"text": ...}                       every token is trained
 *   prompt-completion  {"prompt": ..., "completion": ...}  the completion is trained
 *   alpaca             {"instruction", "input", "output"}  the output is trained; the prompt is the
 *                      text of stanford_alpaca, with or without input ("input" absent or empty)
 *   tokens             {"input_ids": [...], "labels": [...]}  labels: -100 or the id itself
 *                      (shifted later, as everywhere); absent: every token is trained
 *   messages, sharegpt, preference are recognised and refused by name.
 *
 * Prompt and completion are joined as they are, with `separator` (part of the prompt) between
 * them. Columns may be renamed. Further columns are ignored.
 *
 * Errors  HN_ERR_FORMAT naming `where` (file:line) and the key; HN_ERR_UNSUPPORTED for what needs
 *         a chat template; HN_ERR_ARG for options that exclude each other; HN_ERR_MEMORY.
 */
#ifndef HN_TEMPLATE_H
#define HN_TEMPLATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/json.h"
#include "runtime/base/status.h"
#include "runtime/data/source.h"

#ifdef __cplusplus
extern "C" {
#endif

/* clang-format off */
#define HN_DATA_FORMAT_LIST(X)                \
    X(AUTO,       "auto")                     \
    X(TEXT,       "text")                     \
    X(PROMPT,     "prompt-completion")        \
    X(ALPACA,     "alpaca")                   \
    X(TOKENS,     "tokens")                   \
    X(MESSAGES,   "messages")                 \
    X(SHAREGPT,   "sharegpt")                 \
    X(PREFERENCE, "preference")

typedef enum {
#define X(name, text) HN_DATA_##name,
    HN_DATA_FORMAT_LIST(X)
#undef X
    HN_DATA_FORMAT_COUNT
} hn_data_format;
/* clang-format on */

const char *hn_data_format_name(hn_data_format f); /* "alpaca"; "?" when out of range */
/* Errors  HN_ERR_ARG listing the names */
HN_NODISCARD hn_status hn_data_format_parse(const char *name, hn_data_format *out);

/* NULL: text, prompt, completion, "". Naming a column chooses the format when it is AUTO. */
typedef struct {
    hn_data_format format;
    const char *text_key, *prompt_key, *completion_key, *separator;
} hn_template;

/* One row as text or, for tokens, as ids; buffers are kept for the next row. */
typedef struct {
    char *text; /* prompt, then completion; not zero-terminated */
    int64_t n_bytes, n_prompt, text_cap;
    int32_t *id;
    uint8_t *trained; /* [n_ids] 1: the token is a target */
    int64_t n_ids, id_cap, trained_cap;
} hn_rendered;

void hn_rendered_free(hn_rendered *r); /* accepts an empty one */

/* Settles t->format from the first 100 rows of the source, which must agree (the source is
 * back at the start of its selection afterwards). A format that was asked for stays; what this
 * version cannot do is refused.
 * n_looked   NULL or out: rows that were looked at */
HN_NODISCARD hn_status hn_template_settle(hn_template *t, hn_source *s, int64_t *n_looked);

/* where   "file:line" for errors
 * vocab   ids of `tokens` rows must lie in [0, vocab)
 * out     replaced; unspecified after an error */
HN_NODISCARD hn_status hn_template_render(const hn_template *t, const json_t *row,
                                          const char *where, int64_t vocab, hn_rendered *out);

/* Parses one row of a source and renders it. A piece of plain text is taken as it is. */
HN_NODISCARD hn_status hn_template_row(const hn_template *t, const hn_row *row, bool is_text,
                                       int64_t vocab, hn_rendered *out);

#ifdef __cplusplus
}
#endif
#endif
