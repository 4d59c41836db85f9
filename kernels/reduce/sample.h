/* sample.h - choosing the next token from logits.
 *
 * temperature 0: the largest logit, the lowest index among equals (argmax). Otherwise, in this
 * order (as Hugging Face's logits processors):
 *   1. z = logit / temperature
 *   2. top_k > 0: only the top_k largest stay (at equal values the lower index)
 *   3. top_p < 1: of these, in falling order, the fewest whose probabilities reach top_p
 *   4. one of the rest by its probability: u in [0, 1) is a function of (seed, position, row)
 *
 * Shapes     logits [rows, vocab] f32, rows ld apart; positions, tokens [rows].
 * Precision  probabilities and their sums in double.
 * Limits     temperature >= 0; top_k >= 0 (0, or at least vocab: all); 0 < top_p <= 1.
 * Aliasing   none.
 * Repeats    bit for bit; a row's token does not depend on the other rows.
 * Cost       vocab a row; with top_p and no top_k, sorting vocab values.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE before the first write; HN_ERR_NUMERIC names a row that holds
 *            NaN or +Inf, or nothing above -Inf (tokens of earlier rows are written).
 * Runs on the host: a generating loop needs the token there anyway.
 */
#ifndef HN_SAMPLE_H
#define HN_SAMPLE_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const float *logits;      /* in  [rows, vocab] */
    const int32_t *positions; /* in  [rows] of the tokens to choose; not read at temperature 0 */
    int32_t *tokens;          /* out [rows] */
    int64_t rows, vocab, ld;
    uint64_t seed;
    int64_t top_k;
    float temperature, top_p;
} hn_sample_args;

HN_NODISCARD hn_status hn_sample_check(const hn_sample_args *a);
/* scratch: that many bytes, aligned for floats; NULL where it is 0. */
size_t hn_sample_scratch(const hn_sample_args *a);
HN_NODISCARD hn_status hn_sample(const hn_sample_args *a, void *scratch);

#ifdef __cplusplus
}
#endif
#endif
