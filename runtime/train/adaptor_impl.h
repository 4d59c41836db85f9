/* adaptor_impl.h - an adaptor as a job of the engine; for adaptor.c and adaptor_record.c only. */
#ifndef HN_ADAPTOR_IMPL_H
#define HN_ADAPTOR_IMPL_H
#include "runtime/train/adaptor.h"

/* Fields of a micro-batch; those behind OFFSETS have the places that fields_of gives them. */
enum { HN_ADAPTOR_LABEL, HN_ADAPTOR_OFFSETS };

typedef struct {
    hn_job job; /* first: callbacks get this */
    hn_adaptor_options o;
    hn_drift_config drift;
    hn_vision_config encoder, backbone; /* bodies without a head */
    hn_drift_rows rows;
    hn_params *drift_params, *encoder_params; /* those of the backbone are the engine's */
    hn_drift_tables drift_tables;
    hn_vision_tables encoder_tables, backbone_tables;
    hn_tensor *images;
    hn_tensor *start, *rounded_start;   /* z(0): zeros, and in bf16; NULL in f32 */
    hn_tensor *sinusoids;               /* f32 [steps stages, time] */
    hn_tensor *length;                  /* f32 [episodes tokens]: of a step, in every row */
    hn_tensor *theta0, *sigma;          /* f32 [tokens, token_width], [tokens] */
    int features, support_image, image; /* fields; -1: there is none. Labels follow `image` */
    hn_tensor *theta, *prediction;      /* results; prediction NULL without a backbone */
    hn_adaptor_cost cost;
} hn_adaptor_job;

int64_t hn_adaptor_body_rows(const hn_adaptor_job *j); /* of an episode, in the backbone */
/* Sets everything but o, from o. Errors: those of hn_adaptor_new */
HN_NODISCARD hn_status hn_adaptor_job_init(hn_adaptor_job *j);
#endif
