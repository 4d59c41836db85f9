/* distill.h - knowledge distillation: the student's softened classes follow the teacher's.
 *
 * Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network" (2015); in learning without
 * forgetting (Li, Hoiem, 2016) the teacher is the network before the task. With the n columns
 * first_class .. first_class + n - 1 of row i, written c = 0 .. n - 1:
 *
 *   q[i,c]         = softmax_c(teacher[i,c] / T)         p[i,c] = softmax_c(student[i,c] / T)
 *   loss[i]        = weight * T^2 * sum_c q[i,c] (log q[i,c] - log p[i,c])
 *   dstudent[i,c]  = weight * T * (p[i,c] - q[i,c])      0 in columns outside the range
 *
 *   loss_sum += sum_i loss[i]
 *
 * weight * T^2 * torch.nn.functional.kl_div(log_softmax(student[:, range] / T),
 * softmax(teacher[:, range] / T), reduction="sum"). A column with q = 0 adds 0 to the loss. Rows
 * whose label is HN_LABEL_IGNORED (padding) add nothing, with dstudent and row_loss 0. No count is
 * kept: that is the classification loss's. Gradients are those of the sum.
 *
 * Shapes     student, dstudent [rows, classes], teacher [rows, teacher_classes], both at least as
 *            wide as the range, rows ld_... elements apart; labels, row_loss [rows]; loss_sum [1].
 * Precision  student, teacher, dstudent f32 or bf16, all the same; softmax and its sums fp32 (the
 *            twin in double), the sum of a call in double, added to loss_sum with one rounding.
 * CUDA       the same, sums in another order.
 * Limits     rows, classes below 2^31; any width and alignment; T > 0.
 * Aliasing   none.
 * Repeats    bit for bit, for any number of threads.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED before the first write.
 */
#ifndef HN_DISTILL_H
#define HN_DISTILL_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/label.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *student;   /* in  [rows, classes] */
    const void *teacher;   /* in  [rows, teacher_classes] */
    const int32_t *labels; /* in  [rows] only HN_LABEL_IGNORED matters; NULL: all rows count */
    float *loss_sum;       /* i/o [1]; NULL: not wanted */
    void *dstudent;        /* out [rows, classes]; NULL: not wanted */
    float *row_loss;       /* out [rows]; NULL: not wanted */
    int64_t rows, classes, teacher_classes;
    int64_t ld_student, ld_teacher, ld_dstudent;
    int64_t first_class, n_classes; /* the range; n_classes 0: all of the student from there on */
    float temperature;              /* T; 0: not given, 1 */
    float weight;
    hn_dtype dtype; /* of student, teacher and dstudent */
} hn_distill_args;

HN_NODISCARD hn_status hn_distill_check(const hn_distill_args *a);
HN_NODISCARD hn_status hn_distill_cpu(const hn_distill_args *a);

/* scratch: that many bytes, 64-byte aligned; the count reads shapes only. */
size_t hn_distill_fast_scratch(const hn_distill_args *a);
HN_NODISCARD hn_status hn_distill_fast(const hn_distill_args *a, void *scratch);

/* Device pointers. */
HN_CUDA_FUNCTION size_t hn_distill_cuda_scratch(const hn_distill_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_distill_cuda(const hn_distill_args *a, void *scratch,
                                                        hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
