/* fedref.h - federated training of an image classifier, or of a segmenter of volumes, simulated on
 * one GPU or several: hone-fedref's options and verbs.
 *
 * The samples (images, or patches of regions of volumes) are parted among clients (partition.h); in
 * each round some clients are asked (client_schedule.h), train from the model that the server sent
 * them (fed_sim.h), and send updates as the messages that travel in earnest (message.h); the server
 * makes the next model out of those it takes (server.h), and that is measured on held-out ones.
 *
 * A run's folder:
 *   run.yaml  index.json    options; what a continuation is compared by
 *   checkpoint-<round>/     the newest state: the server's, fedref.json (what follows, and counts),
 *                           residuals.safetensors where clients keep some
 *   rounds.csv              a line a round
 *   clients.csv             a line a client: its samples, what it was asked and sent
 *   rejected.csv            updates that were refused: round, client, reason
 *   result.json             one cell of a table
 *   curve.gnuplot, .png     accuracy or Dice by round, where gnuplot is on the PATH
 *
 * Of several ranks (call->team) rank 0 does all this; the others open the same options and data,
 * train their share of each round's clients, and measure their share of what is held out
 * (fed_ranks.h). Messages and errors that clients keep are rank 0's.
 *
 * Nothing of a round counts before it is over; a kill loses at most --save-every rounds, and a
 * continued run has the bits of an uninterrupted one (seconds differ). */
#ifndef HN_FEDREF_H
#define HN_FEDREF_H
#include "runtime/train/fed_setup.h"
#include "runtime/train/verb_call.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of --model's that segment volumes (seg_model.h). */
typedef struct {
    const char *labels, *eval_labels, *channels, *intensity, *relabel, *patch, *window, *sites;
    int64_t volume, per_region;
    double foreground, flip, scale_spread, shift_spread, pad;
    double w_dice, w_focal, w_cross, focal_alpha, focal_gamma;
    double overlap;
    bool gaussian;
} hn_fedref_volume_config;

typedef struct {
    hn_fed_config fed; /* of a client */
    hn_fedref_volume_config volumes;
    /* partition */
    const char *partition, *groups;
    int64_t clients, shards, min_samples;
    double alpha;
    /* rounds */
    int64_t rounds, per_round;
    double dropout, late, late_least, target;
    /* server */
    const char *method, *weights, *down, *below_quorum;
    int64_t quorum, p, every;
    double rate, server_beta1, server_beta2, tau, trim, ema;
    double lambda1, lambda2, growth, cap;
    bool loss_term, first_axis_bug, fisher;
    int64_t fisher_images;
    /* the run */
    const char *out, *resume, *log_format, *inject, *simulate;
    int64_t eval_every, save_every, stop_after, keep, at_once, lanes;
    hn_team_options team; /* ranks, which share the clients of a round (fed_ranks.h) */
    /* verbs on a run that is there */
    const char *run, *to, *kind;
} hn_fedref_config;

/* The config of a call is an hn_fedref_config.
 * Errors name option, file, client or round: HN_ERR_ARG and the like for wrong input, others while
 * running (hn_status_exit_code). */

/* Why an option means nothing beside the others; NULL: it does. Such options are refused where they
 * are given, and a run's record leaves them out. */
const char *hn_fedref_reason(const hn_fedref_config *c, const char *option);

/* Runs the rounds that are left. --stop-after ends behind a round: HN_OK, as a signal does, which
 * one rank hears between two steps, or groups of blocks: the round at hand is left out; or between
 * two parts of its measurement, which the run that goes on makes first. Fewer
 * updates than the quorum, with --below-quorum stop: HN_ERR_NUMERIC naming the round; the state
 * before it is saved. Results are written behind an error, too, of the rounds that count. */
HN_NODISCARD hn_status hn_fedref_train(const hn_verb_call *c);
/* What train would do: clients, bytes of a round, memory. */
HN_NODISCARD hn_status hn_fedref_check(const hn_verb_call *c);
/* The newest model of the run in `run` measured once more, class by class. */
HN_NODISCARD hn_status hn_fedref_eval(const hn_verb_call *c);
/* That model as a folder `to`: whole ("model"), or the adapter ("peft"). */
HN_NODISCARD hn_status hn_fedref_export(const hn_verb_call *c);
/* Tables, CSV files and the picture anew from the state of `run`. */
HN_NODISCARD hn_status hn_fedref_report(const hn_verb_call *c);
/* What travels in `run`: tensors, roles, bytes of messages; and where the server is. */
HN_NODISCARD hn_status hn_fedref_info(const hn_verb_call *c);

#ifdef __cplusplus
}
#endif
#endif
