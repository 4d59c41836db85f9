/* rope_table.h - the cosines and sines of rotary embedding, for every rope_type of Hugging Face.
 *
 * With d = rotary_dim and f_k = theta^(-2k/d), k in [0, d/2), the angle of pair k at position p
 * is p * g_k, and both tables are multiplied by the attention factor m (1 unless said otherwise):
 *   default   g = f
 *   linear    g = f / factor
 *   dynamic   theta grows once the length L passes max_positions M:
 *             theta * (factor L / M - (factor - 1))^(d / (d - 2))
 *   yarn      g = f / factor * ramp + f * (1 - ramp), ramp_k = clamp((k - low) / (high - low), 0,
 * 1) low, high = pairs that turn beta_fast and beta_slow times within the original length O,
 * rounded outwards unless no_truncate; within [0, d - 1]. m = 0.1 ln(factor) + 1, or with mscale
 * and mscale_all_dim the quotient of the two 0.1 mscale ln(factor) + 1 longrope  g = f /
 * long_factor[k] when L > O, else f / short_factor[k]; m = sqrt(1 + ln(factor) / ln(O)) llama3 by
 * wavelength w = 2 pi / f: above O / low_freq_factor f / factor, below O / high_freq_factor f,
 * between them a blend with weight (O / w - low_freq_factor) / (high_freq_factor - low_freq_factor)
 * of f A given attention_factor replaces m; m is 1 where factor <= 1. Computed in double, stored as
 * float. Formulas as in Hugging Face transformers, modeling_rope_utils.py.
 */
#ifndef HN_ROPE_TABLE_H
#define HN_ROPE_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    HN_ROPE_DEFAULT,
    HN_ROPE_LINEAR,
    HN_ROPE_DYNAMIC,
    HN_ROPE_YARN,
    HN_ROPE_LONGROPE,
    HN_ROPE_LLAMA3
} hn_rope_type;

/* Zero means "not given" throughout; what a type does not use is ignored. */
typedef struct {
    hn_rope_type type;
    int64_t rotary_dim;    /* even */
    double theta;          /* rope_theta, above 1 */
    double factor;         /* yarn, longrope: 0 means max_positions / original_max_positions */
    int64_t max_positions; /* max_position_embeddings */
    int64_t original_max_positions; /* original_max_position_embeddings; 0: max_positions */
    double attention_factor;
    double beta_fast, beta_slow; /* yarn; 0: 32 and 1 */
    double mscale, mscale_all_dim;
    bool no_truncate;                         /* yarn: "truncate": false */
    double low_freq_factor, high_freq_factor; /* llama3 */
    const double *short_factor, *long_factor; /* longrope, [rotary_dim / 2] each */
} hn_rope_spec;

/* Errors: HN_ERR_ARG naming the parameter that is missing or out of range. */
HN_NODISCARD hn_status hn_rope_check_spec(const hn_rope_spec *spec);

/* g_k and m for sequences of up to `length` positions (only dynamic and longrope look at it). */
double hn_rope_frequency(const hn_rope_spec *spec, int64_t length, int64_t k);
double hn_rope_attention_factor(const hn_rope_spec *spec);

/* Fills rows 0 .. n_positions - 1 of cos and sin, [n_positions, rotary_dim / 2] with rows ld
 * elements apart. length: the longest sequence in use; 0: n_positions.
 * Errors: those of the spec; HN_ERR_ARG, HN_ERR_SHAPE. Nothing is written then. */
HN_NODISCARD hn_status hn_rope_table(const hn_rope_spec *spec, int64_t length, int64_t n_positions,
                                     int64_t ld, float *cos, float *sin);

#ifdef __cplusplus
}
#endif
#endif
