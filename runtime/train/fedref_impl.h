/* fedref_impl.h - what the files fedref_*.c share; for them only. */
#ifndef HN_FEDREF_IMPL_H
#define HN_FEDREF_IMPL_H
#include "runtime/base/json.h"
#include "runtime/base/progress.h"
#include "runtime/data/client_schedule.h"
#include "runtime/data/partition.h"
#include "runtime/fed/server.h"
#include "runtime/file/checkpoint.h"
#include "runtime/train/fedref_subject.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_FEDREF_FORMAT = 1 }; /* of index.json and fedref.json; readers refuse newer ones */

/* One round: a line of rounds.csv. Counts are exact in a double. */
typedef struct {
    double round, asked, dropped, late, used, rejected;
    double score, loss, hd95; /* of held-out data (fedref_subject.h); NaN: not measured */
    double client_loss;       /* mean over the clients that were used, by samples */
    double bytes_down, bytes_up;
    double changed, corrected; /* 0 or 1: as in hn_fed_round_report */
    double lambda2, update_norm, correction_norm;
    double client_s, server_ms, eval_s;
} hn_fedref_round;

/* A column of the table; `time`: differs from run to run. */
typedef struct {
    const char *name;
    size_t offset;
    bool time;
} hn_fedref_column;
enum { HN_FEDREF_COLUMNS = 19 };
/* [HN_FEDREF_COLUMNS] those of images, or of volumes: their scores are other ones. */
const hn_fedref_column *hn_fedref_columns(bool volumes);
static inline double hn_fedref_cell(const hn_fedref_round *r, const hn_fedref_column *column)
{
    return *(const double *)((const char *)r + column->offset);
}

/* What became of a client so far. */
typedef struct {
    double asked, used, rejected, dropped, late, bytes_down, bytes_up, seconds;
} hn_fedref_tally;
enum { HN_FEDREF_TALLIES = 8 };

typedef struct {
    int64_t round, client;
    char *reason; /* owned */
} hn_fedref_refusal;

/* Damage that --inject asks for. */
typedef enum {
    HN_INJECT_NAN,      /* the last value of the message is NaN */
    HN_INJECT_SHAPE,    /* the message of another model */
    HN_INJECT_STALE,    /* of the round before */
    HN_INJECT_GARBAGE,  /* bytes that mean nothing */
    HN_INJECT_TRUNCATED /* half of the message */
} hn_inject_kind;

typedef struct {
    hn_inject_kind kind;
    int64_t client, round;
} hn_injection;

/* A residual that an open round has replaced. */
typedef struct {
    int64_t client;
    float *residual; /* owned; NULL: there was none */
} hn_fedref_old;

/* What became of a client's message on its way. */
typedef struct {
    hn_status encoded, decoded;
    size_t n_bytes;
    hn_fed_head head;
    char reason[1024]; /* of the one that failed */
} hn_fedref_message;

typedef struct {
    const hn_fedref_config *c; /* own: the call's, with the device of this rank */
    hn_fedref_config own;
    const hn_verb_call *call;
    int64_t ranks;    /* that share the clients, at least 1 */
    hn_fed_sim *sim;  /* the subject's, or that of all ranks */
    hn_fed_sim *team; /* NULL: one rank */
    hn_log log;
    FILE *to;
    bool json; /* lines for machines */
    /* inputs */
    hn_fedref_subject *about;
    hn_partition partition;
    hn_fed_schedule schedule;
    hn_injection *injection;
    int64_t n_injections;
    char *data_digest, *settings;
    /* the parts of a round */
    hn_fed_layout layout;
    hn_fed_server_options method;
    hn_fed_server *server;
    hn_fed_call *calls; /* [per_round] */
    hn_fed_task *task;  /* [per_round] of those who work */
    hn_fed_bytes ids;   /* of the blocks that travel: a client's first message; empty: none do */
    hn_fed_bytes down;
    hn_fed_bytes *up;           /* [threads] */
    int threads;                /* that clients' messages are on their way on */
    hn_fedref_message *message; /* [per_round] of each task */
    float *sent;                /* [layout n] the model as clients have it */
    float *received;    /* [per_round][layout n] updates of tasks, until the round is over */
    float *fisher;      /* NULL, or [per_round][layout values] of them */
    float **residual;   /* [clients]: [layout values], or NULL where it is zero */
    hn_fedref_old *old; /* [per_round], of them n_old: while a round is open */
    int64_t n_old;
    /* what has happened */
    hn_fedref_round *round; /* [rounds] */
    int64_t done;
    bool unmeasured; /* round `done`: a signal came before it was measured, and the run ends */
    hn_fedref_tally *tally;     /* [clients] */
    hn_fedref_tally *old_tally; /* [clients] before the open round */
    hn_fedref_refusal *refusal;
    int64_t n_refusals, cap_refusals;
    double *class_best, *class_last; /* [classes] scores; NaN: none yet */
    /* The last round is measured out of turn, too; these are without that, for a run that is made
     * longer. */
    double *turn_best, *turn_last;
    void *record; /* [about->parts] of a measurement */
    /* the run */
    char *out;
    hn_outdir *lock;
    json_t *index;
    hn_progress progress;
    int64_t saved; /* rounds of the newest state on disk; -1: none */
    bool stopped;  /* asked to */
} hn_fedref;

static inline int64_t hn_fedref_classes(const hn_fedref *r) { return r->about->classes; }

/* ---- fedref_options.c ---- */
HN_NODISCARD hn_status hn_fedref_check_options(const hn_verb_call *call);
/* The server's options: the method's defaults, and what was given. */
HN_NODISCARD hn_status hn_fedref_method(const hn_fedref_config *c, hn_fed_server_options *out);
/* "nan:3@2,shape:5@4": client 3 in round 2, ... *out is new, NULL for "" */
HN_NODISCARD hn_status hn_fedref_injections(const char *text, hn_injection **out, int64_t *n);

/* ---- fedref_open.c: subject, partition, layout ---- */
/* ranks: that share the clients, which will train, too; 0: they will not */
HN_NODISCARD hn_status hn_fedref_open(const hn_verb_call *call, int64_t ranks, hn_fedref *r);
void hn_fedref_close(hn_fedref *r);
/* Adds to the list of refused updates; reason is copied. */
HN_NODISCARD hn_status hn_fedref_refuse(hn_fedref *r, int64_t round, int64_t client,
                                        const char *reason);

/* Keeps the first n of that list. */
void hn_fedref_forget_refusals(hn_fedref *r, int64_t n);

/* ---- fedref_round.c ---- */
/* Round r->done + 1, up to its line in r->round; r->done goes up. After an error nothing of the
 * round counts; below the quorum the state before it is saved. HN_ERR_STOPPED: a signal while
 * clients train, on one rank; the state is the one before the round. A signal while the model is
 * measured, on one rank: the round counts, and is unmeasured. */
HN_NODISCARD hn_status hn_fedref_run_round(hn_fedref *r);
/* The measurement of r->done that a signal has left out, once more (unmeasured). */
HN_NODISCARD hn_status hn_fedref_measure_first(hn_fedref *r);
/* Forgets a measurement of the last round that was out of turn (--eval-every): for going on. */
void hn_fedref_forget_last(hn_fedref *r);
/* Bytes of one client's message, and of the server's. */
int64_t hn_fedref_bytes_up(const hn_fedref *r);
int64_t hn_fedref_bytes_down(const hn_fedref *r);

/* ---- fedref_damage.c ---- */
/* What --inject makes of a message of that client and round; nothing where it asks for nothing. */
void hn_fedref_damage(const hn_fedref *r, int64_t round, int64_t client, hn_fed_bytes *message);

/* ---- fedref_team.c: several ranks ---- */
/* Behind hn_fedref_open, on all ranks: whether they have the same in front of them; r->sim. */
HN_NODISCARD hn_status hn_fedref_team_open(hn_fedref *r);
/* On all ranks, behind the folder: matrix products as rank 0's. */
HN_NODISCARD hn_status hn_fedref_team_plans(hn_fedref *r);
/* The server's model into r->record, by all ranks where there are several, behind that round.
 * HN_ERR_STOPPED: a signal, where there is one rank. */
HN_NODISCARD hn_status hn_fedref_measure(hn_fedref *r, int64_t round);
/* The signal that asks the run to end, to whatever rank it came; 0: none. */
int hn_fedref_signal(const hn_fedref *r);
static inline bool hn_fedref_leads(const hn_fedref *r) { return hn_team_leads(r->call->team); }

/* ---- fedref_folder.c ---- */
/* r->settings: the options that a continuation compares. */
HN_NODISCARD hn_status hn_fedref_make_settings(hn_fedref *r);
/* Takes the folder, checks that what is there is this run's, reads the newest state, or begins. */
HN_NODISCARD hn_status hn_fedref_folder_open(hn_fedref *r);
/* The same for a run that is there. write: files of it will be, so it is taken; else only read. */
HN_NODISCARD hn_status hn_fedref_folder_read(hn_fedref *r, bool write);
HN_NODISCARD hn_status hn_fedref_save(hn_fedref *r);

/* ---- fedref_state.c: fedref.json and residuals of a checkpoint ---- */
HN_NODISCARD hn_status hn_fedref_state_save(const hn_fedref *r, hn_ckpt *c);
HN_NODISCARD hn_status hn_fedref_state_load(hn_fedref *r, const char *dir);

/* ---- fedref_report.c ---- */
/* The line of the last round behind those before. */
HN_NODISCARD hn_status hn_fedref_append(const hn_fedref *r);
/* Every file of results; draw: and the picture. */
HN_NODISCARD hn_status hn_fedref_write_results(const hn_fedref *r, bool draw);
void hn_fedref_print_rounds(const hn_fedref *r, FILE *to);
void hn_fedref_print_result(const hn_fedref *r, FILE *to);

typedef struct {
    double best, last, last_loss, last_hd95;
    int64_t best_round;
    double forgetting;       /* max(0, best earlier - last) */
    double class_forgetting; /* the same class by class, then the mean */
    int64_t target_round;    /* first one at or above the target; 0: none */
    double target_bytes;     /* up and down until then */
    double bytes_up, bytes_down, client_s, server_ms;
    int64_t rejected;
} hn_fedref_summary;
void hn_fedref_summarize(const hn_fedref *r, hn_fedref_summary *out);

/* ---- fedref_export.c ---- */
HN_NODISCARD hn_status hn_fedref_write_model(const hn_fedref *r, const char *dir);
HN_NODISCARD hn_status hn_fedref_write_adapter(const hn_fedref *r, const char *dir);

#ifdef __cplusplus
}
#endif
#endif
