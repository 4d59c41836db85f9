#include "runtime/train/segmenter_job.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/label.h"
#include "runtime/data/volume_window.h"
#include "runtime/graph/tensor.h"

enum { VALUE, LABEL };

static const hn_segmenter_job *segmenter(const hn_job *j) { return (const hn_segmenter_job *)j; }

static int64_t voxels(const int64_t size[3]) { return size[0] * size[1] * size[2]; }

static hn_type values_type(int64_t n, const int64_t size[3], const hn_seg_config *c)
{
    return (hn_type){
        .dtype = HN_F32, .ndim = 5, .dim = {n, size[0], size[1], size[2], c->channels}};
}

static hn_status declare(const hn_job *j, hn_params *p)
{
    return hn_seg_declare(segmenter(j)->o.config, p);
}

static hn_status tables(hn_job *j, hn_program *p)
{
    hn_segmenter_job *s = (hn_segmenter_job *)j;
    if (s->o.window[0] == 0) return HN_OK;
    const hn_type window = values_type(1, s->o.window, s->o.config);
    return hn_program_tensor(p, HN_MEM_INPUT, "window", &window, &s->probe.values);
}

static hn_status logits_of(const hn_segmenter_job *s, const hn_job_pass *pass, hn_graph *g,
                           hn_tensor *values, hn_tensor **logits)
{
    const hn_seg_build b = {
        .config = s->o.config, .params = pass->params, .recompute = pass->recompute};
    const hn_attr cast = {.cast = {.to = s->o.dtype}};
    hn_tensor *out[HN_MAX_OUT] = {values};
    if (s->o.dtype != HN_F32) HN_TRY(hn_emit(g, HN_OP_CAST, "values", &values, &cast, out));
    return hn_seg_logits(&b, g, out[0], logits);
}

static hn_status loss(hn_job *j, const hn_job_pass *pass, hn_graph *g, const hn_job_sums *sums)
{
    const hn_segmenter_job *s = segmenter(j);
    const hn_seg_terms *t = &s->o.terms;
    hn_tensor *logits, *out[HN_MAX_OUT];
    HN_TRY(logits_of(s, pass, g, pass->in[VALUE], &logits));
    hn_tensor *const in[] = {logits, pass->in[LABEL], sums->loss, sums->count, sums->hits};
    const hn_attr attr = {.seg_loss = {.w_dice = t->w_dice,
                                       .w_focal = t->w_focal,
                                       .w_cross = t->w_cross,
                                       .smooth = t->smooth,
                                       .alpha = t->alpha,
                                       .gamma = t->gamma,
                                       .want_dlogits = hn_graph_training(g)}};
    return hn_emit(g, HN_OP_SEG_LOSS, "loss", in, &attr, out);
}

static hn_status probe(hn_job *j, const hn_job_pass *pass, hn_graph *g)
{
    hn_segmenter_job *s = (hn_segmenter_job *)j;
    HN_TRY(logits_of(s, pass, g, s->probe.values, &s->probe.logits));
    hn_graph_keep(s->probe.logits);
    return HN_OK;
}

static void empty(const hn_job *j, void *const *field)
{
    const hn_segmenter_options *o = &segmenter(j)->o;
    const int64_t n = j->rows * voxels(o->patch);
    int32_t *const label = field[LABEL];
    memset(field[VALUE], 0, (size_t)(n * o->config->channels) * sizeof(float));
    for (int64_t i = 0; i < n; i++) label[i] = HN_LABEL_IGNORED;
}

void hn_segmenter_job_init(hn_segmenter_job *j, const hn_segmenter_options *o)
{
    const hn_type values = values_type(o->batch, o->patch, o->config);
    const hn_type labels = hn_type_1d(HN_I32, o->batch * voxels(o->patch));
    *j = (hn_segmenter_job){
        .job = {.rows = o->batch,
                .layers = hn_seg_layers(o->config),
                .hits = true,
                .n_fields = 2,
                .field = {[VALUE] = {"values", values}, [LABEL] = {"labels", labels}},
                .declare = declare,
                .tables = tables,
                .loss = loss,
                .probe = o->window[0] > 0 ? probe : NULL,
                .empty = empty},
        .o = *o};
}

hn_segmenter_batch hn_segmenter_batch_of(const hn_engine_input *in)
{
    return (hn_segmenter_batch){in->field[VALUE], in->field[LABEL]};
}

/* ---- a whole volume ---- */

/* room     [window, channels] values, [window, classes] logits */
static hn_status run_windows(const hn_segmenter_job *j, hn_engine *e, const hn_windows *w,
                             const float *value, const hn_segmenter_blend *how, float *room,
                             hn_blend *b)
{
    const int64_t channels = j->o.config->channels;
    const size_t n = (size_t)(voxels(w->size) * channels);
    for (int64_t i = 0; i < w->count; i++) {
        if (how->stop != NULL && how->stop() != 0)
            return HN_FAIL(HN_ERR_STOPPED, "stopped at window %" PRId64 " of %" PRId64, i + 1,
                           w->count);
        hn_windows_cut(w, i, value, channels, how->pad, room);
        HN_TRY(hn_tensor_write(j->probe.values, 0, room, n * sizeof *room));
        HN_TRY(hn_engine_probe(e));
        HN_TRY(hn_tensor_get(j->probe.logits, room + n));
        hn_blend_add(b, i, room + n);
    }
    return HN_OK;
}

hn_status hn_segmenter_volume(const hn_segmenter_job *j, hn_engine *e, const float *value,
                              const int64_t size[3], const hn_segmenter_blend *how, uint8_t *mask)
{
    hn_windows w;
    hn_blend *b = NULL;
    if (j->job.probe == NULL) return HN_FAIL(HN_ERR_ARG, "a job without windows of volumes");
    const int64_t classes = hn_type_cols(&j->probe.logits->type);
    HN_TRY(hn_windows_plan(size, j->o.window, how->overlap, &w));
    HN_TRY(hn_blend_new(&w, (int)classes, how->gaussian, &b));
    const size_t n = (size_t)(voxels(w.size) * (j->o.config->channels + classes));
    float *room = hn_malloc(n * sizeof *room);
    hn_status st = room ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a window of %zu values", n);
    if (st == HN_OK) st = run_windows(j, e, &w, value, how, room, b);
    if (st == HN_OK) st = hn_blend_argmax(b, mask);
    hn_free(room);
    hn_blend_free(b);
    return st;
}
