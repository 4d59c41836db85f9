/* adaptor.h - adapts a backbone to new tasks by forward passes alone: what a device carries.
 *
 *   features = encoder(support images)                    or given
 *   z(0) = 0;  dz/dt = drift(z, t | features, labels)     to the stop time, in `steps` steps
 *   theta = theta_0 + sigma z                             the biases of the backbone (theta.h)
 *   prediction = nearest prototype of the backbone with those biases    (kernels/loss/proto_ce.h)
 *
 * All of it for `episodes` tasks at once, recorded as one graph: captured on a GPU, where nothing
 * waits in between. What is absent from the options ends it earlier: without a backbone theta is
 * the result; without an encoder features come from the host. Every task has its own biases, a
 * replica of the program (runtime/train/engine.h); all else is shared.
 *
 * With `steps` 0 theta is theta_0 + sigma 0: the same bits as theta_0, and as a drift network whose
 * output layer is zero. The stop time is no part of the plan: it may change between runs.
 *
 * Repeats    bit for bit. A task's result depends on the other tasks only by the rounding of
 *            products. */
#ifndef HN_ADAPTOR_H
#define HN_ADAPTOR_H
#include "runtime/data/images.h"
#include "runtime/flow/integrate.h"
#include "runtime/model/drift.h"
#include "runtime/model/vision.h"
#include "runtime/train/engine.h"
#include "runtime/train/theta.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    hn_device *device; /* must outlive the adaptor; NULL: the CPU */
    hn_executor executor;
    const hn_drift_config *drift; /* copied, as the networks below */
    hn_integrator integrator;
    int64_t steps;                    /* 0: none, direct transfer */
    int64_t episodes, support;        /* at once; support rows of each, padding included */
    const hn_vision_config *encoder;  /* its head is left out; NULL: features are given */
    const hn_vision_config *backbone; /* the same; NULL: theta is the result */
    const hn_theta *theta;            /* of the backbone; must outlive the adaptor */
    int64_t queries;                  /* rows of an episode, with a backbone */
    int64_t ways;                     /* at most, of an episode */
    float scale, offset;              /* logits = scale (cosine + offset) */
    const hn_images *images;          /* with an encoder or a backbone; must outlive the adaptor */
    hn_dtype dtype;
    hn_attention_impl attention;
    size_t memory, workspace; /* as of the engine */
    /* On the CPU asked in front of every operation of a run (hn_signals_caught, say): what is not 0
     * ends it with HN_ERR_STOPPED, without results. NULL: nobody asks. */
    int (*stop)(void);
} hn_adaptor_options;

/* Workspace of one task at a time, whose products are small: bytes. */
enum { HN_ADAPTOR_WORKSPACE = 2 << 20 };

typedef struct hn_adaptor hn_adaptor;

/* Makes the plan; takes no memory of the device.
 * Errors  HN_ERR_ARG, HN_ERR_SHAPE: what does not fit together; those of hn_engine_new */
HN_NODISCARD hn_status hn_adaptor_new(const hn_adaptor_options *o, hn_adaptor **out);
void hn_adaptor_free(hn_adaptor *a);             /* accepts NULL */
char *hn_adaptor_plan_text(const hn_adaptor *a); /* hn_free it; NULL: no memory */
/* Takes the memory; parameters are zero until they are loaded. */
HN_NODISCARD hn_status hn_adaptor_allocate(hn_adaptor *a);

/* To be loaded by the caller; NULL where the adaptor has no such network. The backbone's biases
 * of theta are written by every run. */
hn_params *hn_adaptor_drift(const hn_adaptor *a);
hn_params *hn_adaptor_encoder(const hn_adaptor *a);
hn_params *hn_adaptor_backbone(const hn_adaptor *a);
hn_engine *hn_adaptor_engine(const hn_adaptor *a); /* for its profile, and to tune products */

/* theta0 [tokens token_width], sigma [tokens]. Zeros until then. */
HN_NODISCARD hn_status hn_adaptor_set_theta(hn_adaptor *a, const float *theta0, const float *sigma);
/* Where the integration ends, 0 to 1. 1 until then. Errors: HN_ERR_ARG */
HN_NODISCARD hn_status hn_adaptor_set_stop(hn_adaptor *a, double stop);

/* ---- a run ---- */

/* Host memory of a run. Numbers of images are those of options.images; -1: padding. */
typedef struct {
    int32_t *support_label; /* [episodes support] classes; HN_LABEL_IGNORED: padding */
    int32_t *offsets;       /* [2 episodes + 1], of hn_drift_support_offsets */
    float *features;        /* [episodes support, features]; NULL with an encoder */
    int32_t *support_image; /* [episodes support]; NULL without an encoder */
    int32_t *image, *label; /* [episodes (support + queries)]; NULL without a backbone. Labels of
                             * queries: HN_PROTO_UNLABELLED where they are to be found out */
} hn_adaptor_batch;

/* Where the next run's inputs go: empty episodes, to be filled by the caller or by the next
 * function. */
HN_NODISCARD hn_status hn_adaptor_batch_of(hn_adaptor *a, hn_adaptor_batch *out);

/* A task of a batch. features [n, features] where there is no encoder, else NULL. */
typedef struct {
    const int32_t *support,
        *support_label;                 /* [n_support]; support NULL where images play no part */
    const int32_t *query, *query_label; /* [n_query]; query_label NULL: not known */
    const float *features;
    int64_t n_support, n_query;
} hn_adaptor_task;

/* Errors  HN_ERR_ARG: more images than there are rows, or what it needs is missing */
HN_NODISCARD hn_status hn_adaptor_put(const hn_adaptor *a, const hn_adaptor_batch *b, int64_t e,
                                      const hn_adaptor_task *task);
/* On a GPU it returns before the work is done. */
HN_NODISCARD hn_status hn_adaptor_run(hn_adaptor *a);

/* Of the last run; they wait for it. */
HN_NODISCARD hn_status hn_adaptor_theta(hn_adaptor *a, float *theta); /* [episodes, numbers] */
/* [episodes]: loss, rows and hits of the queries with a label. With a backbone. */
HN_NODISCARD hn_status hn_adaptor_sums(hn_adaptor *a, hn_eval_sums *out);
/* [episodes queries]; -1 of padding. With a backbone. */
HN_NODISCARD hn_status hn_adaptor_predictions(hn_adaptor *a, int32_t *out);

/* Products of one run: 2 a multiply-add of matrix products, convolutions and attention. */
typedef struct {
    double encoder, drift, backbone;
} hn_adaptor_cost;
hn_adaptor_cost hn_adaptor_flops(const hn_adaptor *a);

#ifdef __cplusplus
}
#endif
#endif
