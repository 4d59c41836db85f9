/* Which step gathers what for which reselection (spec/sparse.md 6.4). */
#include <inttypes.h>
#include <math.h>

#include "runtime/train/sparse_select.h"

static const double pi = 3.14159265358979323846;

int64_t hn_select_interval(const hn_select_schedule *s)
{
    if (s->every > 0) return s->every;
    return s->steps / 10 > 100 ? s->steps / 10 : 100;
}

static int64_t start_of(const hn_select_schedule *s)
{
    return s->start > 0 ? s->start : hn_select_interval(s);
}

static hn_status check_share(const char *name, double v)
{
    if (v >= 0 && v <= 1) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "selection: %s is %g, allowed 0 to 1", name, v);
}

hn_status hn_select_schedule_check(const hn_select_schedule *s)
{
    if (s->steps < 1 || s->first < 0 || s->every < 0 || s->start < 0 || s->window < 0)
        return HN_FAIL(HN_ERR_ARG,
                       "selection: %" PRId64 " steps, %" PRId64 " first batches, every %" PRId64
                       ", start %" PRId64 ", window %" PRId64,
                       s->steps, s->first, s->every, s->start, s->window);
    HN_TRY(check_share("the share of score steps", s->score_share));
    HN_TRY(check_share("the end of reselections", s->until));
    HN_TRY(check_share("the rate", s->rate));
    HN_TRY(check_share("the first rate", s->first_rate));
    if (!s->fixed && (s->window > hn_select_interval(s) || s->window > start_of(s)))
        return HN_FAIL(HN_ERR_ARG,
                       "selection: a window of %" PRId64 " steps, the first reselection at %" PRId64
                       " and then every %" PRId64,
                       s->window, start_of(s), hn_select_interval(s));
    /* A batch in each half, or the pool would be chosen by nothing. */
    const bool halves = s->score_share > 0 && s->score_share < 1;
    if (halves && (s->first == 1 || (!s->fixed && s->window == 1)))
        return HN_FAIL(HN_ERR_ARG, "selection: one batch cannot both score blocks and gather the "
                                   "gradients of candidates: 2 or more");
    return HN_OK;
}

/* Place `at` of a window of n steps. */
static hn_select_step place(const hn_select_schedule *s, int64_t at, int64_t n)
{
    int64_t scores = (int64_t)ceil(s->score_share * (double)n - 1e-9);
    if (s->score_share < 1 && scores == n) scores = n - 1;
    const bool scoring = at < scores;
    const int64_t in_phase = scoring ? at : at - scores;
    return (hn_select_step){.phase = scoring ? HN_SELECT_SCORE : HN_SELECT_WINDOW,
                            .first = in_phase == 0,
                            .gathered = in_phase + 1,
                            .change = at == n - 1};
}

hn_select_step hn_select_before(const hn_select_schedule *s, int64_t batch)
{
    if (batch < 0 || batch >= s->first) return (hn_select_step){0};
    hn_select_step step = place(s, batch, s->first);
    step.rate = step.change ? 1.0 : 0.0;
    return step;
}

static double rate_at(const hn_select_schedule *s, int64_t t)
{
    const double end = s->until * (double)s->steps, x = (double)t / end;
    if (t == start_of(s) && s->first_rate > 0) return s->first_rate;
    switch (s->decay) {
    case HN_DECAY_COSINE: return 0.5 * s->rate * (1 + cos(pi * x));
    case HN_DECAY_LINEAR: return s->rate * (1 - x);
    case HN_DECAY_CONSTANT: break;
    }
    return s->rate;
}

hn_select_step hn_select_at(const hn_select_schedule *s, int64_t step)
{
    const int64_t every = hn_select_interval(s), start = start_of(s);
    if (s->fixed || step < 0 || step >= s->steps) return (hn_select_step){0};
    /* the next reselection: the first one at t > step */
    const int64_t t = step < start ? start : start + ((step - start) / every + 1) * every;
    const int64_t before = t - step; /* 1: behind this step */
    if ((double)t > s->until * (double)s->steps || t >= s->steps) return (hn_select_step){0};
    hn_select_step out = {0};
    if (before <= s->window) out = place(s, s->window - before, s->window);
    out.change = before == 1;
    out.rate = out.change ? rate_at(s, t) : 0.0;
    return out;
}
