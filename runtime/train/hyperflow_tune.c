#include "runtime/train/hyperflow_tune.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/base/rng.h"
#include "runtime/train/signals.h"

void hn_hf_bench_close(hn_hf_bench *b)
{
    if (b->valid != b->main) hn_episode_sampler_free(b->valid);
    hn_episode_sampler_free(b->main);
    *b = (hn_hf_bench){0};
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

hn_status hn_hf_bench_open(const hn_hyperflow *r, const hn_hf_domain *d, hn_hf_part part,
                           hn_hf_part valid, hn_hf_bench *out)
{
    hn_hf_bench b = {.domain = d};
    hn_status st = d->runs ? HN_OK : hn_hyperflow_sampler(r, d, part, &b.main);
    if (st == HN_OK && valid == part) b.valid = b.main;
    if (st == HN_OK && valid != part) st = hn_hyperflow_sampler(r, d, valid, &b.valid);
    if (st != HN_OK) {
        hn_hf_bench_close(&b);
        return st;
    }
    const hn_episode_sizes m = d->runs ? hn_omniglot_runs_sizes(d->runs)
                                       : hn_episode_sampler_sizes(b.main),
                           v = hn_episode_sampler_sizes(b.valid);
    b.sizes = (hn_episode_sizes){.way = larger(m.way, v.way),
                                 .support = larger(m.support, v.support),
                                 .query = larger(m.query, v.query)};
    *out = b;
    return HN_OK;
}

void hn_hf_episodes_free(hn_episode *e, int64_t n)
{
    for (int64_t i = 0; e != NULL && i < n; i++) hn_episode_free(&e[i]);
    hn_free(e);
}

static hn_status draw(const hn_episode_sampler *s, const hn_omniglot_runs *runs,
                      const hn_episode_sizes *sizes, int64_t first, int64_t n, hn_episode **out)
{
    hn_episode *e = hn_calloc((size_t)n, sizeof *e);
    hn_status st = e ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " episodes", n);
    for (int64_t i = 0; i < n && st == HN_OK; i++) {
        st = hn_episode_make(sizes->way, sizes->support, sizes->query, &e[i]);
        if (st == HN_OK)
            st = runs ? hn_omniglot_runs_draw(runs, first + i, &e[i])
                      : hn_episode_draw(s, first + i, &e[i]);
    }
    if (st != HN_OK)
        hn_hf_episodes_free(e, n);
    else
        *out = e;
    return st;
}

hn_status hn_hf_draw(const hn_episode_sampler *s, const hn_episode_sizes *sizes, int64_t first,
                     int64_t n, hn_episode **out)
{
    return draw(s, NULL, sizes, first, n, out);
}

hn_status hn_hf_draw_tests(const hn_hf_bench *b, int64_t first, int64_t n, hn_episode **out)
{
    return draw(b->main, b->domain->runs, &b->sizes, first, n, out);
}

int64_t hn_hf_bench_episodes(const hn_hyperflow *r, const hn_hf_bench *b)
{
    return b->domain->runs ? hn_omniglot_runs_count(b->domain->runs) : r->c->test_episodes;
}

const char *hn_hf_bench_text(const hn_hf_bench *b)
{
    return b->domain->runs ? "Omniglot's one-shot runs" : hn_episode_sampler_text(b->main);
}

const char *hn_hf_bench_digest(const hn_hf_bench *b)
{
    return b->domain->runs ? hn_image_set_digest(hn_omniglot_runs_images(b->domain->runs))
                           : hn_episode_sampler_digest(b->main);
}

hn_tune_set hn_hf_theta_set(const hn_hyperflow *r)
{
    return strcmp(r->c->adapted, "qv") == 0 ? HN_TUNE_QV : HN_TUNE_BIASES;
}

hn_few_shot_tune_options hn_hf_tune_options(const hn_hyperflow *r, const hn_hf_bench *b,
                                            hn_tune_set set)
{
    const hn_hyperflow_config *c = r->c;
    return (hn_few_shot_tune_options){.device = r->device,
                                      .executor = hn_executor_of(c->executor),
                                      .model = &r->model,
                                      .images = hn_image_set_view(b->domain->images),
                                      .set = set,
                                      .at_once = r->at_once,
                                      .shrink = true,
                                      .support = b->sizes.support,
                                      .queries = b->sizes.query,
                                      .ways = b->sizes.way,
                                      .steps = set == HN_TUNE_NONE ? 0 : c->tune_steps,
                                      .augment = c->augment ? 0.9f : 0,
                                      .scale = (float)c->scale,
                                      .offset = (float)c->offset,
                                      .recompute = HN_RECOMPUTE_OFF,
                                      .seed = (uint64_t)c->seed,
                                      .team = r->call->team};
}

uint64_t hn_hf_seed(const hn_hyperflow *r, const char *domain, const char *what, int64_t i,
                    int64_t number)
{
    uint32_t word[4];
    const uint64_t key = hn_hash_name(domain) ^ (hn_hash_name(what) << 1);
    hn_rng_block(hn_rng_make((uint64_t)r->c->seed, (uint64_t)i, key), (uint64_t)number, 0, word);
    return (uint64_t)word[0] << 32 | word[1];
}

hn_status hn_hf_choose_with(const hn_hyperflow *r, const hn_hf_bench *b, hn_few_shot_tuner *t,
                            hn_hf_choice *choice)
{
    const int64_t n = r->c->valid_episodes;
    hn_episode *e = NULL;
    int64_t best = 0;
    HN_TRY(hn_hf_draw(b->valid, &b->sizes, 0, n, &e));
    const hn_status st = hn_few_shot_choose_lr(t, e, n, choice->value, choice->n,
                                               hn_hf_seed(r, b->domain->name, "valid", 0, 0),
                                               choice->accuracy, &best);
    hn_hf_episodes_free(e, n);
    choice->best = (int)best;
    choice->on = "validation episodes of the domain";
    return st;
}

/* Ranks share the groups: so many were one after the other. */
static double work_of_choice(const hn_hyperflow *r, const hn_hf_bench *b, int64_t at_once, int n)
{
    const int64_t tasks = r->c->valid_episodes * n, ranks = hn_hyperflow_ranks(r),
                  groups = (tasks + at_once - 1) / at_once, rounds = (groups + ranks - 1) / ranks;
    return (double)rounds * hn_hf_group_work(r, at_once, &b->sizes, true);
}

hn_status hn_hf_choose_rate(const hn_hyperflow *r, const hn_hf_bench *b, hn_tune_set set,
                            hn_hf_choice *choice, hn_hf_pace *pace)
{
    hn_few_shot_tuner *t = NULL;
    hn_few_shot_tune_options o = hn_hf_tune_options(r, b, set);
    o.together = true;
    o.stop = hn_signals_caught;
    hn_status st = hn_few_shot_tuner_new(&o, &t);
    if (st == HN_OK) st = hn_few_shot_tuner_open(t);
    const int64_t begun = hn_clock_ns(); /* behind what is done once */
    if (st == HN_OK) st = hn_hf_choose_with(r, b, t, choice);
    if (st == HN_OK) {
        pace->seconds += (double)(hn_clock_ns() - begun) * 1e-9;
        pace->work += work_of_choice(r, b, hn_few_shot_tuner_at_once(t), choice->n);
    }
    hn_few_shot_tuner_free(t);
    return st;
}
