/* fed_client.h - a client of federated training on an engine of one replica: any classifier, any
 * choice of what is trained. fed_sim.h says what a task is.
 *
 * The same engine serves all clients of a simulation: what a client keeps from round to round is
 * nothing that an engine holds. Values, tasks and results are those of fed_sim.h; the same task
 * from the same values gives the same bits. */
#ifndef HN_FED_CLIENT_H
#define HN_FED_CLIENT_H
#include "runtime/train/fed_sim.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_fed_client hn_fed_client;

/* o      images NULL: it evaluates only; at_once is not read
 * eval   held-out images, or NULL; must outlive the client
 * The values are those of the model, from files or the seed.
 * Errors HN_ERR_ARG: no model for images, or neither images nor eval; HN_ERR_UNSUPPORTED: batches
 *        that may be padded, and a model whose batch norm would count the padding (`join` or
 *        `frozen_norm`); HN_ERR_SHAPE: images of other sizes or classes; those of hn_engine_new and
 *        hn_model_load */
HN_NODISCARD hn_status hn_fed_client_new(const hn_fed_sim_options *o, const hn_images *eval,
                                         hn_fed_client **out);
void hn_fed_client_free(hn_fed_client *c); /* accepts NULL */

/* Its parameters, plan and memory; not to be stepped. */
hn_engine *hn_fed_client_engine(const hn_fed_client *c);
int64_t hn_fed_client_values(const hn_fed_client *c);
/* value [hn_fed_client_values] */
HN_NODISCARD hn_status hn_fed_client_set(hn_fed_client *c, const float *value);
HN_NODISCARD hn_status hn_fed_client_get(const hn_fed_client *c, float *value);

/* From the values as they are; *out: value is NULL (hn_fed_client_get has them).
 * Errors  HN_ERR_ARG: made without images, a task without images or steps, an image that the set
 *         does not have */
HN_NODISCARD hn_status hn_fed_client_train(hn_fed_client *c, const hn_fed_task *t,
                                           hn_fed_trained *out);

/* The same in parts, for a host that keeps several clients at work: begin, advance until it is
 * done, end. Between them nothing else is called with this client; the task's images live so long.
 *
 * advance   enqueues one more step; behind the last one looks at what has become of them
 * wait      behind the last one: waits until it is done. false: it may be HN_FED_WAITS */
typedef enum { HN_FED_STEPPED, HN_FED_WAITS, HN_FED_DONE } hn_fed_progress;
HN_NODISCARD hn_status hn_fed_client_begin(hn_fed_client *c, const hn_fed_task *t);
HN_NODISCARD hn_status hn_fed_client_advance(hn_fed_client *c, bool wait, hn_fed_progress *out);
void hn_fed_client_end(const hn_fed_client *c, hn_fed_trained *out);

/* Of the held-out images, all and class by class. */
typedef struct {
    double accuracy, loss;
    int64_t rows, hits;
    int64_t *class_rows, *class_hits; /* [classes]; the client's, until the next call */
} hn_fed_scores;

/* Errors  HN_ERR_ARG: made without held-out images */
HN_NODISCARD hn_status hn_fed_client_evaluate(hn_fed_client *c, hn_fed_scores *out);

/* The same in parts of neighbouring batches, for those who share them: the scores of all records
 * are those of hn_fed_client_evaluate, bit for bit, whoever has measured which part.
 *
 * record   of a part: hn_fed_client_part_bytes; score takes those of all parts in order */
enum { HN_FED_EVAL_PARTS = 8 }; /* at most: the device is waited for behind each */
int64_t hn_fed_client_parts(const hn_fed_client *c); /* 0: made without held-out images */
size_t hn_fed_client_part_bytes(const hn_fed_client *c);
HN_NODISCARD hn_status hn_fed_client_measure(hn_fed_client *c, int64_t part, void *record);
void hn_fed_client_score(hn_fed_client *c, const void *record, hn_fed_scores *out);

/* The simulation `one` (fed_one.c): a client for each lane, whose tasks run at the same time on a
 * GPU, each on the stream of its device. Results are the same bits with any number of lanes, and
 * come in the order of the tasks. Errors: those of hn_fed_client_new */
HN_NODISCARD hn_status hn_fed_one_new(const hn_fed_sim_options *o, hn_fed_sim **out);
/* The client behind lane k, of so many. */
hn_fed_client *hn_fed_one_client(const hn_fed_sim *s, int64_t k);
int64_t hn_fed_one_lanes(const hn_fed_sim *s);

#ifdef __cplusplus
}
#endif
#endif
