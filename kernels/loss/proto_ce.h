/* proto_ce.h - cross-entropy of queries against the prototypes of their episode (ProtoNet with
 * scaled cosines), and its gradient through prototypes and queries.
 *
 * A replica is an episode: `support` rows of features x, then `queries` rows; y = labels. With
 * |x| the Euclidean norm, [x] = max(|x|, 1e-8), and over the classes c that have support rows
 * there, of which class c has n_c (all others are no candidates):
 *
 *   p_c      = 1/n_c sum over support rows j with y_j = c of x_j         the prototype
 *   cos[i,c] = x_i . p_c / ([x_i] [p_c])                                 of query row i
 *   z[i,c]   = scale (cos[i,c] + offset)
 *   loss[i]  = log sum_c exp(z[i,c]) - z[i,y_i]
 *
 *   loss_sum += sum_i loss[i]   count += rows summed   hits += those whose largest z is that of y_i
 *
 * scale (F.cosine_similarity(x, p, eps=1e-8) + offset) and F.cross_entropy(reduction="sum"); the
 * division by the count happens in clipping and update. The labels of query rows:
 *
 *   0 .. ways-1          the row counts
 *   HN_PROTO_UNLABELLED  logits and prediction are made, the row counts for nothing
 *   HN_LABEL_IGNORED     padding: logits 0, prediction -1
 *
 * Support rows have a class or HN_LABEL_IGNORED. Of equal largest logits the class that comes first
 * in the support rows wins, and sums over classes go in that order: loss, hits and gradient stay
 * the same bits when classes are numbered otherwise. A NaN is never the largest; where all are NaN
 * the prediction is -1 and no hit, and so it is in a replica without support.
 *
 * Gradient of loss_sum, with g[i,c] = scale (softmax_c z[i,c] - (c == y_i)), 0 in rows that do not
 * count, u_i = x_i / [x_i], v_c = p_c / [p_c]; the second term is absent where the norm is below
 * 1e-8, for [ ] is constant there:
 *
 *   query    dx_i = 1/[x_i] (sum_c g[i,c] v_c - u_i sum_c g[i,c] cos[i,c])
 *   support  dx_j = 1/(n_c [p_c]) (sum_i g[i,c] u_i - v_c sum_i g[i,c] cos[i,c])    c = y_j
 *
 * and 0 in support rows without a class.
 *
 * Shapes     features, dfeatures [replicas (support + queries), width], rows ld_* elements apart;
 *            labels [replicas (support + queries)]; prediction [replicas queries]; logits
 *            [replicas queries, ways], rows ld_logits apart, -FLT_MAX for classes without support;
 *            loss_sum, hits [replicas]; count [replicas], count_stride elements apart.
 * Precision  features and dfeatures f32 or bf16, logits f32; fp32 arithmetic and sums in order (the
 *            CPU function in double), the loss of a replica summed in double, added with one
 *            rounding. count and hits are exact up to 2^24.
 * CUDA       one block a replica, its sums in shared memory where they fit into 40 KiB, else in
 *            scratch. Labels are not checked: a support row whose label is no class takes no part;
 *            a query row whose label is no class, or one without support, is not counted and has
 *            gradient 0 (its prediction and logits are made).
 * Limits     support, queries >= 1; 1 <= ways <= 64; width below 2^24; rows below 2^31; any
 *            alignment; scale positive, it and offset finite.
 * Aliasing   none.
 * Repeats    bit for bit.
 * Cost       the features read three times (twice without gradient), from memory once, and written
 *            once; per replica 2 queries ways width flops for the logits, 4 more for the gradient.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED before the first write; the CPU function
 *            also reports, as HN_ERR_ARG with its row, a label that is none of the above and a
 *            query row whose class has no support.
 */
#ifndef HN_PROTO_CE_H
#define HN_PROTO_CE_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/label.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_PROTO_WAYS = 64, HN_PROTO_UNLABELLED = -1 };

#define HN_PROTO_EPS 1e-8 /* the least norm */

typedef struct {
    const void *features;  /* in  [replicas (support + queries), width] */
    const int32_t *labels; /* in  [replicas (support + queries)] */
    float *loss_sum;       /* i/o [replicas]; NULL: not wanted */
    float *count;          /* i/o [replicas]; NULL: not wanted */
    float *hits;           /* i/o [replicas]; NULL: not wanted */
    void *dfeatures;       /* out [replicas (support + queries), width]; NULL: not wanted */
    int32_t *prediction;   /* out [replicas queries]; NULL: not wanted */
    float *logits;         /* out [replicas queries, ways]; NULL: not wanted */
    int64_t replicas;      /* 0: 1 */
    int64_t support, queries, width, ways;
    int64_t ld_features, ld_dfeatures, ld_logits;
    int64_t count_stride; /* of replicas; else not read */
    float scale, offset;  /* 10 and 0 before meta-training */
    hn_dtype dtype;       /* of features and dfeatures */
} hn_proto_ce_args;

/* Does not read memory: labels are checked by hn_proto_ce_check_labels (host memory). */
HN_NODISCARD hn_status hn_proto_ce_check(const hn_proto_ce_args *a);
HN_NODISCARD hn_status hn_proto_ce_check_labels(const hn_proto_ce_args *a);

/* scratch: that many bytes, 64-byte aligned; the count reads shapes only. */
size_t hn_proto_ce_cpu_scratch(const hn_proto_ce_args *a);
HN_NODISCARD hn_status hn_proto_ce_cpu(const hn_proto_ce_args *a, void *scratch);

/* Device pointers. */
HN_CUDA_FUNCTION size_t hn_proto_ce_cuda_scratch(const hn_proto_ce_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_proto_ce_cuda(const hn_proto_ce_args *a, void *scratch,
                                                         hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
