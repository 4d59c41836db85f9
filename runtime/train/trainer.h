/* trainer.h - the training loop that all trainers share. */
#ifndef HN_TRAINER_H
#define HN_TRAINER_H
#include "runtime/train/session.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Runs `train`: opens everything, plans, trains, saves, exports.
 * s      method, config, run, given and log are set; the rest is opened here
 * table  the options of the verb: they become the run's record
 * to     results and, with --log-format json, one object a step
 * A signal or --stop-after saves a checkpoint and ends with HN_OK; a signal also between two
 * batches of an evaluation, which the run that goes on makes first (hn_run_state.evaluate_first).
 * NaN or infinity ends with HN_ERR_NUMERIC naming step and operation; the newest checkpoint stays.
 */
HN_NODISCARD hn_status hn_train(hn_session *s, const hn_option_table *table, FILE *to);

#ifdef __cplusplus
}
#endif
#endif
