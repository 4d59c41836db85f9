/* drift.h - a drift network: where the adapted parameters of a task want to go (HyperFlow).
 *
 *   slope [points, tokens, token_width] = h(z, t | support set)
 *
 * z are normalised coordinates (theta - theta_0) / sigma of one task at one time: `tokens` tokens.
 *
 * Support set (once a task). Row j of support_context.h, [f_j, mean f of its class, log n]:
 *   s     = support(u)
 *   x     = queries + proj( attention( q(queries), k(n), v(n) ) )         n = layer norm(s)
 *   task  = layer norm(x)                 `queries` task tokens; their mean is the pooled vector
 * so neither the order of classes nor that of images matters (the latter up to rounding of sums).
 *
 * Slope, with c = silu(mlp(sinusoids of t) + pooled) and for every block, in adaLN's manner
 * (kernels/hyperflow/modulate.h), m(x) = norm(x) (1 + scale) + shift, scale and shift = linear(c):
 *   x     = input(z) + a learned vector a token
 *   x    += proj( attention( q(n), k(n), v(n) ) )      n = m(x), over the tokens of a point
 *   x    += proj( attention( q(n), k(task), v(task) ) ) n = m(x), to the task's tokens
 *   x    += fc2( gelu( fc1(n) ) )                      n = m(x)
 *   slope = output(m(x))                               output begins as zeros: so does the slope
 *
 * Parameters have names drift.*. The sinusoids of t in [0, 1]: sin(1000 t f_i), then the cosines,
 * f_i = 10000^(-i / half), i < half = time / 2 (DiT's, with t as a share of 1000 steps). */
#ifndef HN_DRIFT_H
#define HN_DRIFT_H
#include "runtime/adapt/params.h"
#include "runtime/model/drift_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Declares every parameter. */
HN_NODISCARD hn_status hn_drift_declare(const hn_drift_config *c, hn_params *params);

/* How many of what a graph works on. */
typedef struct {
    int64_t tasks, support; /* tasks, and rows of each one's support set, padding included */
    int64_t points;         /* points (z, t) of every task */
} hn_drift_rows;

/* Tensors that all graphs of a program with the same rows share. */
typedef struct {
    hn_drift_rows rows;
    hn_tensor *token;         /* i32 [tasks points tokens]: number of a row's token */
    hn_tensor *query;         /* i32 [tasks queries] */
    hn_tensor *point_offsets; /* i32 [tasks points + 1]: tokens of a point */
    hn_tensor *asked_by;      /* i32 [2 tasks + 1]: queries of a task; none ask the padding */
    hn_tensor *task_offsets;  /* i32 [tasks + 1]: tokens of all points of a task */
    hn_tensor *query_offsets; /* i32 [tasks + 1]: task tokens of a task */
    hn_tensor *zeros, *zero;  /* [tasks, width]; its first row */
} hn_drift_tables;

/* dtype: what is computed in. A program has one such set of tables. */
HN_NODISCARD hn_status hn_drift_tables_new(const hn_drift_config *c, hn_program *p, hn_dtype dtype,
                                           const hn_drift_rows *rows, hn_drift_tables *out);
/* After hn_plan_allocate. */
HN_NODISCARD hn_status hn_drift_tables_fill(const hn_drift_config *c, const hn_drift_tables *t);

/* support_offsets of hn_drift_task_of: out [2 tasks + 1], from how many images each task has,
 * n [tasks], 0 <= n <= rows->support; they come first in the task's rows. */
void hn_drift_support_offsets(const hn_drift_rows *rows, const int32_t *n, int32_t *out);
/* Sinusoids of a time: out [config.time]. */
void hn_drift_time_row(const hn_drift_config *c, double t, float *out);

typedef struct {
    const hn_drift_config *config;
    const hn_params *params;
    const hn_drift_tables *tables;
    hn_attention_impl attention; /* whose kernels, within a point */
} hn_drift_build;

/* What is made of the support sets once, and read by every slope. */
typedef struct {
    hn_tensor *tokens; /* [tasks queries, width] */
    hn_tensor *pooled; /* [tasks, width] */
    hn_tensor *keys; /* [tasks queries, 2 blocks width]: keys and values of block 0, of block 1, */
    hn_tensor *embedded; /* [tasks points tokens, width]: the learned vector of a token */
} hn_drift_task;

/* context          [tasks support, hn_support_context_cols(features)], of the parameters' dtype
 * support_offsets  i32 [2 tasks + 1] (hn_drift_support_offsets)
 * Errors           HN_ERR_SHAPE and those of hn_emit */
HN_NODISCARD hn_status hn_drift_task_of(const hn_drift_build *b, hn_graph *g, hn_tensor *context,
                                        hn_tensor *support_offsets, hn_drift_task *out);

/* sinusoids f32 [n, time] -> *out [n, width]. */
HN_NODISCARD hn_status hn_drift_times(const hn_drift_build *b, hn_graph *g, hn_tensor *sinusoids,
                                      hn_tensor **out);

/* z      [tasks points tokens, token_width] of the parameters' dtype, point by point
 * time   of hn_drift_times: [tasks points, width], or [1, width] for all, with points 1
 * slope  like z */
HN_NODISCARD hn_status hn_drift_slope(const hn_drift_build *b, hn_graph *g,
                                      const hn_drift_task *task, hn_tensor *z, hn_tensor *time,
                                      hn_tensor **slope);

/* Products of one forward pass, 2 a multiply-add: matrix products and attention. */
double hn_drift_task_flops(const hn_drift_config *c, const hn_drift_rows *rows);
double hn_drift_slope_flops(const hn_drift_config *c, const hn_drift_rows *rows);

#ifdef __cplusplus
}
#endif
#endif
