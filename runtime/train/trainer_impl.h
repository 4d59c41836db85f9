/* trainer_impl.h - the insides of the training loop; for trainer.c and trainer_open.c only. */
#ifndef HN_TRAINER_IMPL_H
#define HN_TRAINER_IMPL_H
#include "runtime/base/progress.h"
#include "runtime/file/checkpoint.h"
#include "runtime/file/metrics.h"
#include "runtime/file/tfevents.h"
#include "runtime/train/schedule.h"
#include "runtime/train/session.h"
#include "runtime/train/state.h"
#include "runtime/train/team.h"

typedef struct {
    hn_session *s;
    const hn_run_config *c;
    const hn_method_hooks *hooks;
    FILE *to;
    char *out, *yaml, *settings;
    const int64_t ranks; /* at least 1 */
    const bool leads;    /* writes and speaks for all */
    hn_outdir *lock;
    hn_run_identity id;
    hn_run_state state;
    hn_schedule schedule;
    int64_t total, last; /* steps of the schedule; step at which this call ends */
    hn_metrics *metrics;
    hn_tfevents *events;
    hn_progress progress;
    hn_log quiet;          /* the session's log, shown above the progress line */
    int64_t saved_step;    /* newest checkpoint, -1: none */
    int64_t units;         /* trained tokens since the start of this call */
    int64_t ahead;         /* steps that are enqueued behind state.step: it counts reported ones */
    double peak_gib;       /* at the last look */
    int64_t stop_at;       /* step behind which all ranks end, for a signal; -1: none */
    bool resumed;          /* from a checkpoint */
    bool stop_early, json; /* json: one object a line on `to` */
} hn_trainer;

/* trainer_open.c: everything is opened, a checkpoint loaded, records begun. table: the options. */
HN_NODISCARD hn_status hn_trainer_open(hn_trainer *t, const hn_option_table *table);
void hn_trainer_close(hn_trainer *t);
char *hn_trainer_checkpoint(const hn_trainer *t, int64_t step); /* its path, of hn_free */
/* Whether the ranks of a run without a break, too, have the same running values behind state.step:
 * it evaluates, saves or ends there. A signal and --stop-after may save elsewhere. */
bool hn_trainer_in_schedule(const hn_trainer *t);
/* Whose kernels the run is on, in one line. */
void hn_trainer_kernels(const hn_trainer *t, char *text, size_t size);
#endif
