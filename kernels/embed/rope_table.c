#include "kernels/embed/rope_table.h"

#include <inttypes.h>
#include <math.h>

#include "runtime/base/check.h"

#define PI 3.14159265358979323846

static double original_of(const hn_rope_spec *s)
{
    return (double)(s->original_max_positions ? s->original_max_positions : s->max_positions);
}

static double factor_of(const hn_rope_spec *s)
{
    return s->factor != 0.0 ? s->factor : (double)s->max_positions / original_of(s);
}

static hn_status check_number(const char *name, double v, double above)
{
    if (isfinite(v) && v > above) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "rope: %s is %g, it must be above %g", name, v, above);
}

static hn_status check_lengths(const hn_rope_spec *s)
{
    HN_TRY(check_number("max_position_embeddings", (double)s->max_positions, 0.0));
    return check_number("original_max_position_embeddings", original_of(s), 0.0);
}

static hn_status check_yarn(const hn_rope_spec *s)
{
    HN_TRY(check_lengths(s));
    HN_TRY(check_number("factor", factor_of(s), 0.0));
    const double fast = s->beta_fast != 0.0 ? s->beta_fast : 32.0;
    const double slow = s->beta_slow != 0.0 ? s->beta_slow : 1.0;
    HN_TRY(check_number("beta_slow", slow, 0.0));
    if (!isfinite(fast) || fast < slow)
        return HN_FAIL(HN_ERR_ARG, "rope: beta_fast %g is below beta_slow %g", fast, slow);
    if (!isfinite(s->mscale) || !isfinite(s->mscale_all_dim) || s->mscale < 0.0 ||
        s->mscale_all_dim < 0.0)
        return HN_FAIL(HN_ERR_ARG, "rope: mscale %g and mscale_all_dim %g must not be negative",
                       s->mscale, s->mscale_all_dim);
    return HN_OK;
}

static hn_status check_longrope(const hn_rope_spec *s)
{
    HN_TRY(check_lengths(s));
    HN_TRY(check_number("factor", factor_of(s), 0.0));
    HN_TRY(check_number("original_max_position_embeddings", original_of(s), 1.0));
    HN_TRY(hn_check_pointer("rope", "short_factor", s->short_factor));
    HN_TRY(hn_check_pointer("rope", "long_factor", s->long_factor));
    for (int64_t k = 0; k < s->rotary_dim / 2; k++) {
        HN_TRY(check_number("short_factor", s->short_factor[k], 0.0));
        HN_TRY(check_number("long_factor", s->long_factor[k], 0.0));
    }
    return HN_OK;
}

static hn_status check_llama3(const hn_rope_spec *s)
{
    HN_TRY(check_number("factor", s->factor, 0.0));
    HN_TRY(check_number("original_max_position_embeddings", original_of(s), 0.0));
    HN_TRY(check_number("low_freq_factor", s->low_freq_factor, 0.0));
    return check_number("high_freq_factor", s->high_freq_factor, s->low_freq_factor);
}

hn_status hn_rope_check_spec(const hn_rope_spec *s)
{
    HN_TRY(hn_check_pointer("rope", "spec", s));
    if (s->rotary_dim < 2 || s->rotary_dim % 2 != 0 || s->rotary_dim > INT32_MAX)
        return HN_FAIL(HN_ERR_ARG, "rope: rotary dimension %" PRId64 " must be even, at least 2",
                       s->rotary_dim);
    HN_TRY(check_number("rope_theta", s->theta, 1.0));
    if (!isfinite(s->attention_factor) || s->attention_factor < 0.0)
        return HN_FAIL(HN_ERR_ARG, "rope: attention_factor %g must not be negative",
                       s->attention_factor);
    switch (s->type) {
    case HN_ROPE_DEFAULT: return HN_OK;
    case HN_ROPE_LINEAR: return check_number("factor", s->factor, 0.0);
    case HN_ROPE_DYNAMIC:
        HN_TRY(check_number("rotary dimension", (double)s->rotary_dim, 2.0));
        HN_TRY(check_number("max_position_embeddings", (double)s->max_positions, 0.0));
        return check_number("factor", s->factor, 0.0);
    case HN_ROPE_YARN: return check_yarn(s);
    case HN_ROPE_LONGROPE: return check_longrope(s);
    case HN_ROPE_LLAMA3: return check_llama3(s);
    }
    return HN_FAIL(HN_ERR_ARG, "rope: type %d is not known", (int)s->type);
}

static double power_of(const hn_rope_spec *s, double theta, int64_t k)
{
    return pow(theta, -2.0 * (double)k / (double)s->rotary_dim);
}

static double dynamic_theta(const hn_rope_spec *s, int64_t length)
{
    const double d = (double)s->rotary_dim, max = (double)s->max_positions;
    const double l = (double)length > max ? (double)length : max;
    return s->theta * pow(s->factor * l / max - (s->factor - 1.0), d / (d - 2.0));
}

/* The (fractional) pair that turns `turns` times within the original length. */
static double pair_of_turns(const hn_rope_spec *s, double turns)
{
    return (double)s->rotary_dim * log(original_of(s) / (turns * 2.0 * PI)) / (2.0 * log(s->theta));
}

static double yarn_frequency(const hn_rope_spec *s, int64_t k)
{
    double low = pair_of_turns(s, s->beta_fast != 0.0 ? s->beta_fast : 32.0);
    double high = pair_of_turns(s, s->beta_slow != 0.0 ? s->beta_slow : 1.0);
    if (!s->no_truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0.0);
    high = fmin(high, (double)(s->rotary_dim - 1));
    if (low == high) high += 0.001;
    const double ramp = fmin(fmax(((double)k - low) / (high - low), 0.0), 1.0);
    const double f = power_of(s, s->theta, k);
    return f / factor_of(s) * ramp + f * (1.0 - ramp);
}

static double llama3_frequency(const hn_rope_spec *s, int64_t k)
{
    const double f = power_of(s, s->theta, k), wave = 2.0 * PI / f, length = original_of(s);
    if (wave > length / s->low_freq_factor) return f / s->factor;
    if (wave < length / s->high_freq_factor) return f;
    const double smooth =
        (length / wave - s->low_freq_factor) / (s->high_freq_factor - s->low_freq_factor);
    return (1.0 - smooth) * f / s->factor + smooth * f;
}

double hn_rope_frequency(const hn_rope_spec *s, int64_t length, int64_t k)
{
    const double f = power_of(s, s->theta, k);
    switch (s->type) {
    case HN_ROPE_DEFAULT: break;
    case HN_ROPE_LINEAR: return f / s->factor;
    case HN_ROPE_DYNAMIC: return power_of(s, dynamic_theta(s, length), k);
    case HN_ROPE_YARN: return yarn_frequency(s, k);
    case HN_ROPE_LONGROPE:
        return f / ((double)length > original_of(s) ? s->long_factor : s->short_factor)[k];
    case HN_ROPE_LLAMA3: return llama3_frequency(s, k);
    }
    return f;
}

static double magnitude(double factor, double mscale)
{
    return factor > 1.0 ? 0.1 * mscale * log(factor) + 1.0 : 1.0;
}

double hn_rope_attention_factor(const hn_rope_spec *s)
{
    if (s->type != HN_ROPE_YARN && s->type != HN_ROPE_LONGROPE) return 1.0;
    if (s->attention_factor != 0.0) return s->attention_factor;
    const double factor = factor_of(s);
    if (s->type == HN_ROPE_LONGROPE)
        return factor > 1.0 ? sqrt(1.0 + log(factor) / log(original_of(s))) : 1.0;
    if (s->mscale != 0.0 && s->mscale_all_dim != 0.0)
        return magnitude(factor, s->mscale) / magnitude(factor, s->mscale_all_dim);
    return magnitude(factor, 1.0);
}

hn_status hn_rope_table(const hn_rope_spec *s, int64_t length, int64_t n_positions, int64_t ld,
                        float *cosines, float *sines)
{
    HN_TRY(hn_rope_check_spec(s));
    HN_TRY(hn_check_matrix("rope", "cos", cosines, n_positions, s->rotary_dim / 2, ld));
    HN_TRY(hn_check_pointer("rope", "sin", sines));
    if (length < 0) return HN_FAIL(HN_ERR_ARG, "rope: length %" PRId64 " is negative", length);
    const double m = hn_rope_attention_factor(s);
    for (int64_t k = 0; k < s->rotary_dim / 2; k++) {
        const double g = hn_rope_frequency(s, length ? length : n_positions, k);
        for (int64_t p = 0; p < n_positions; p++) {
            cosines[p * ld + k] = (float)(m * cos((double)p * g));
            sines[p * ld + k] = (float)(m * sin((double)p * g));
        }
    }
    return HN_OK;
}
