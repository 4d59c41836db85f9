/* loss, dstudent, row_loss = distill(student, teacher, loss, labels?); the mathematics is in
 * kernels/loss/distill.h. loss is added to in place; dstudent is made here, in forward. The teacher
 * gets no gradient. */
#include "kernels/loss/distill.h"
#include "runtime/graph/op_util.h"

enum { STUDENT, TEACHER, LOSS_IN, LABELS }; /* inputs */
enum { LOSS, DSTUDENT, ROW_LOSS };          /* outputs; the first is an input */

static hn_distill_args args_of(const hn_node *n)
{
    const hn_type *student = &n->in[STUDENT]->type, *teacher = &n->in[TEACHER]->type;
    const hn_tensor *d = n->out[DSTUDENT], *row_loss = n->out[ROW_LOSS];
    return (hn_distill_args){
        .student = n->in[STUDENT]->data,
        .teacher = n->in[TEACHER]->data,
        .labels = n->in[LABELS] ? n->in[LABELS]->data : NULL,
        .loss_sum = n->in[LOSS_IN]->data,
        .dstudent = d ? d->data : NULL,
        .row_loss = row_loss ? row_loss->data : NULL,
        .rows = hn_type_rows(student),
        .classes = hn_type_cols(student),
        .teacher_classes = hn_type_cols(teacher),
        .ld_student = hn_type_ld(student),
        .ld_teacher = hn_type_ld(teacher),
        .ld_dstudent = d ? hn_type_ld(&d->type) : 0,
        .first_class = n->attr.distill.first_class,
        .n_classes = n->attr.distill.n_classes,
        .temperature = n->attr.distill.temperature,
        .weight = n->attr.distill.weight,
        .dtype = student->dtype,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *student = &n->in[STUDENT]->type, *teacher = &n->in[TEACHER]->type;
    const hn_type *loss = &n->in[LOSS_IN]->type;
    const hn_type *labels = n->in[LABELS] ? &n->in[LABELS]->type : NULL;
    if (!hn_is_matrix(student, student) || !hn_is_matrix(teacher, student) ||
        hn_type_rows(teacher) != hn_type_rows(student))
        return HN_FAIL(HN_ERR_SHAPE, "student [rows, classes], teacher with as many rows, both f32 "
                                     "or both bf16");
    if (loss->dtype != HN_F32 || hn_type_elements(loss) != 1)
        return HN_FAIL(HN_ERR_SHAPE, "loss is f32 [1]");
    const int64_t rows = hn_type_rows(student), classes = hn_type_cols(student);
    if (labels && (labels->dtype != HN_I32 || hn_type_elements(labels) != rows))
        return HN_FAIL(HN_ERR_SHAPE, "labels is i32 [rows]");
    const int64_t first = n->attr.distill.first_class, want = n->attr.distill.n_classes;
    const int64_t count = want > 0 ? want : classes - first;
    if (first < 0 || want < 0 || count < 1 || first + count > classes ||
        first + count > hn_type_cols(teacher))
        return HN_FAIL(HN_ERR_SHAPE, "the range of classes is not in student and teacher");
    if (n->attr.distill.want_dstudent ||
        (hn_graph_training(n->graph) && n->in[STUDENT]->needs_grad)) {
        out[DSTUDENT] = *student;
        out[DSTUDENT].pitch = hn_type_2d(student->dtype, rows, classes).pitch;
        out[DSTUDENT].tail = 0;
    }
    if (n->attr.distill.want_row_loss) out[ROW_LOSS] = hn_type_1d(HN_F32, rows);
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    (void)g;
    (void)dout;
    if (n->in[STUDENT]->needs_grad) din[STUDENT] = n->out[DSTUDENT];
    din[TEACHER] = NULL;
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_distill_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_distill_cuda_scratch(&a) : hn_distill_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_distill_args a = args_of(n);
    return x->twin ? hn_distill_cpu(&a) : hn_distill_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_distill_args a = args_of(n);
    return hn_distill_cuda(&a, x->scratch, x->stream);
}

/* One block, a warp a row, a block a row; whole rows and ranges; with padding and without. */
/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {6, 10}, 13}, {HN_F32, 2, {6, 10}}, {HN_F32, 1, {1}}, {HN_I32, 1, {6}}},
     .attr.distill = {.temperature = 2.0f, .weight = 0.5f, .want_row_loss = true}},
    {.in = {{HN_F32, 2, {7, 12}}, {HN_F32, 2, {7, 9}}, {HN_F32, 1, {1}}},
     .attr.distill = {.weight = 1.0f, .first_class = 4, .n_classes = 5, .want_dstudent = true}},
    {.in = {{HN_BF16, 4, {70, 1, 1, 9}, 16}, {HN_BF16, 2, {70, 9}}, {HN_F32, 1, {1}},
            {HN_I32, 1, {70}}},
     .attr.distill = {.temperature = 4.0f, .weight = 2.0f, .first_class = 2, .want_dstudent = true,
                      .want_row_loss = true}},
    {.in = {{HN_BF16, 2, {5, 600}}, {HN_BF16, 2, {5, 531}}, {HN_F32, 1, {1}}},
     .attr.distill = {.temperature = 2.0f, .weight = 1.0f, .n_classes = 531,
                      .want_dstudent = true}},
    {.in = {{0}}},
};
/* clang-format on */

static bool fill(const hn_node *n, int k, void *data)
{
    if (k != LABELS) return false;
    for (int64_t i = 0; i < hn_type_elements(&n->in[k]->type); i++)
        ((int32_t *)data)[i] = i % 3 == 1 ? HN_LABEL_IGNORED : 0;
    return true;
}

const hn_op_def hn_op_distill = {
    .name = "distill",
    .n_in = 4,
    .n_out = 3,
    .optional = HN_BIT(LABELS),
    .alias = {1 + LOSS_IN},
    .saved_out = HN_BIT(DSTUDENT) | HN_BIT(ROW_LOSS),
    .loss = true,
    .infer = infer,
    .grad = grad,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
