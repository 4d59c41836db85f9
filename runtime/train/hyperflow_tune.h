/* hyperflow_tune.h - episodes of a domain as the tuner (few_shot_tune.h) wants them; for the files
 * hyperflow_*.c only. */
#ifndef HN_HYPERFLOW_TUNE_H
#define HN_HYPERFLOW_TUNE_H
#include "runtime/flow/trajectory.h"
#include "runtime/train/few_shot_tune.h"
#include "runtime/train/hyperflow_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What is measured, and what choices are made on: two parts of a domain, in one engine. */
typedef struct {
    const hn_hf_domain *domain;
    hn_episode_sampler *main, *valid; /* main NULL: the runs of the domain */
    hn_episode_sizes sizes;           /* of either */
} hn_hf_bench;

HN_NODISCARD hn_status hn_hf_bench_open(const hn_hyperflow *r, const hn_hf_domain *d,
                                        hn_hf_part part, hn_hf_part valid, hn_hf_bench *out);
void hn_hf_bench_close(hn_hf_bench *b); /* accepts an empty one */

int64_t hn_hf_bench_episodes(const hn_hyperflow *r, const hn_hf_bench *b); /* to be tested on */
/* Which episodes those are: as text and as a digest. */
const char *hn_hf_bench_text(const hn_hf_bench *b);
const char *hn_hf_bench_digest(const hn_hf_bench *b);

/* Episodes first .. first + n - 1 that are tested on. *out: hn_hf_episodes_free */
HN_NODISCARD hn_status hn_hf_draw_tests(const hn_hf_bench *b, int64_t first, int64_t n,
                                        hn_episode **out);
/* The same of a sampler. *out: hn_hf_episodes_free */
HN_NODISCARD hn_status hn_hf_draw(const hn_episode_sampler *s, const hn_episode_sizes *sizes,
                                  int64_t first, int64_t n, hn_episode **out);
void hn_hf_episodes_free(hn_episode *e, int64_t n); /* accepts NULL */

/* What --adapted trains. */
hn_tune_set hn_hf_theta_set(const hn_hyperflow *r);
/* Of a tuner that this rank has for itself; with `together` it is one of all. */
hn_few_shot_tune_options hn_hf_tune_options(const hn_hyperflow *r, const hn_hf_bench *b,
                                            hn_tune_set set);
/* Of what is random for episode `number` of a domain: `what` and `i` say of which of its uses. */
uint64_t hn_hf_seed(const hn_hyperflow *r, const char *domain, const char *what, int64_t i,
                    int64_t number);

/* ---- hyperflow_pace.c: how long generate takes ---- */

/* Groups that were tuned one after the other, and how long that took, on rank 0's clock. */
typedef struct {
    double seconds, work; /* work: sum of hn_hf_group_work; 0: nothing was measured */
    bool trajectories;    /* of those, not of validation episodes for the learning rates */
    bool earlier;         /* in another call */
} hn_hf_pace;

/* Of a group of at_once episodes, full or not (both are computed whole): passes of one image
 * through the backbone, about. z: the rows of an episode; queries: they are classified as well. */
double hn_hf_group_work(const hn_hyperflow *r, int64_t at_once, const hn_episode_sizes *z,
                        bool queries);
/* What pace.json says of this device and this number of ranks; work 0: nothing. Rank 0 alone has
 * it. Errors: HN_ERR_FORMAT */
HN_NODISCARD hn_status hn_hf_pace_load(const hn_hyperflow *r, hn_hf_pace *out);
/* By rank 0; nothing where nothing was measured in this call. */
HN_NODISCARD hn_status hn_hf_pace_save(const hn_hyperflow *r, const hn_hf_pace *p);
enum { HN_HF_PACE_TEXT = 160 };
/* "time: about 2h 07m for 4000 trajectories, at the rate of ...", which are `work`. p->work > 0. */
void hn_hf_pace_text(const hn_hf_pace *p, double work, int64_t records, char out[HN_HF_PACE_TEXT]);

/* ---- what is chosen ---- */

/* choice: value [n] are tried on the validation episodes; accuracy and best come of it. All ranks
 * call it, here with a tuner that they have together. */
/* The next two: with several ranks calls of all of them, HN_ERR_STOPPED on all if any was. */
HN_NODISCARD hn_status hn_hf_choose_with(const hn_hyperflow *r, const hn_hf_bench *b,
                                         hn_few_shot_tuner *t, hn_hf_choice *choice);
/* The same with a tuner for it; *pace: how long the tuning took is added. */
HN_NODISCARD hn_status hn_hf_choose_rate(const hn_hyperflow *r, const hn_hf_bench *b,
                                         hn_tune_set set, hn_hf_choice *choice, hn_hf_pace *pace);

/* Tasks that the drift network is not trained on: one in twenty; none where there are fewer. Number
 * of the task, in the order of drift_data.h: that of its record without noise. */
static inline bool hn_hf_held_out(int64_t task) { return task % 20 == 19; }

/* ---- hyperflow_rates.c ---- */
/* lr [n_train]: those of rates.json, and what it lacks. r->stopped: asked to stop. *pace: of what
 * was tuned for them, if anything was. */
HN_NODISCARD hn_status hn_hf_choose_rates(hn_hyperflow *r, double *lr, hn_hf_pace *pace);

/* ---- hyperflow_generate.c ---- */
int64_t hn_hf_episodes(const hn_hyperflow *r); /* of all domains together */
/* Its episodes are [that, that of the next domain). */
int64_t hn_hf_first_episode(const hn_hyperflow *r, int64_t domain);
HN_NODISCARD hn_status hn_hf_trajectory_head(const hn_hyperflow *r, hn_trajectory_head *h);
/* sigma [tokens]: root mean square of what tuning changes, over the starts without noise. */
HN_NODISCARD hn_status hn_hf_sigma(const hn_hyperflow *r, const hn_trajectories *t, float *sigma);

#ifdef __cplusplus
}
#endif
#endif
