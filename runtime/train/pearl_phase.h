/* pearl_phase.h - a phase that is under way; for pearl_phase*.c only. */
#ifndef HN_PEARL_PHASE_H
#define HN_PEARL_PHASE_H
#include "runtime/train/image_feed.h"
#include "runtime/train/pearl_impl.h"
#include "runtime/train/schedule.h"
#include "runtime/train/state.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    hn_pearl *r;
    const hn_phase *p;
    char *dir, *settings; /* of checkpoints; their identity */
    hn_vision_config config;
    hn_image_view view;
    hn_image_loader *loader;
    hn_adapt adapt;
    hn_classifier_job job;
    hn_engine *engine;
    hn_feed *feed;
    hn_run_identity id;
    hn_run_state state;
    hn_schedule schedule;
    int64_t ahead;   /* steps that are enqueued behind state.step */
    int64_t stop_at; /* of several ranks, for a signal to any: the step that all end behind; -1 */
    int64_t saved, images;
    int64_t begun_ns; /* of this call */
    double before_s;  /* of calls before */
} hn_phase_state;

/* pearl_phase_open.c: images, schedule, engine; then memory and starting values. */
HN_NODISCARD hn_status hn_phase_open(hn_phase_state *f);
HN_NODISCARD hn_status hn_phase_fill(hn_phase_state *f);
void hn_phase_close(hn_phase_state *f);

#ifdef __cplusplus
}
#endif
#endif
