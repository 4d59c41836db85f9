/* hyperflow_cost.h - what an episode takes, adapted to by integration and by full fine-tuning:
 * bytes of the plans, which are all that their engines take of the device, and counted operations;
 * for the files hyperflow_*.c only. */
#ifndef HN_HYPERFLOW_COST_H
#define HN_HYPERFLOW_COST_H
#include "runtime/train/hyperflow_drift.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Engines of one episode at a time: plans, without memory of the device. */
typedef struct {
    hn_images few;               /* as many images as an episode has: others need not be there */
    hn_adaptor *adaptor, *whole; /* to the biases; to the predictions */
    hn_few_shot_tuner *full;     /* a step of full fine-tuning */
} hn_hf_planned;

/* drift: of the network, for the encoder that is open. out points into itself: it must stay where
 * it is. After an error too: hn_hf_planned_free. */
HN_NODISCARD hn_status hn_hf_planned_open(const hn_hyperflow *r, const hn_hf_bench *b,
                                          const hn_drift_config *drift, hn_hf_planned *out);
void hn_hf_planned_free(hn_hf_planned *p); /* accepts an empty one */

hn_hf_cost hn_hf_cost_of(const hn_hyperflow *r, const hn_hf_bench *b, const hn_hf_planned *p);

#ifdef __cplusplus
}
#endif
#endif
