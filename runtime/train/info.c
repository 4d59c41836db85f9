/* `info`: what a folder or file is. */
#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/file/checkpoint.h"
#include "runtime/file/folder.h"
#include "runtime/file/model_dir.h"
#include "runtime/file/peft.h"
#include "runtime/train/sparse_export.h"
#include "runtime/train/verbs.h"

static bool holds(const char *dir, const char *name)
{
    char *path = hn_asprintf("%s/%s", dir, name);
    const bool there = path != NULL && hn_is_file(path);
    hn_free(path);
    return there;
}

static void print_tensor(FILE *to, const hn_st_tensor *t)
{
    fprintf(to, "  %-60s %-5s [", t->name, hn_st_dtype_name(t->dtype));
    for (int i = 0; i < t->ndim; i++) fprintf(to, "%s%" PRId64, i ? ", " : "", t->dim[i]);
    fputs("]\n", to);
}

static void print_sizes(FILE *to, const hn_model *m)
{
    const hn_decoder *c = &m->decoder;
    const hn_vision_config *v = &m->vision;
    if (m->kind == HN_MODEL_DECODER) {
        fprintf(to,
                "  layers %" PRId64 ", hidden %" PRId64 ", intermediate %" PRId64 ", heads %" PRId64
                "/%" PRId64 " of %" PRId64 ", vocabulary %" PRId64 ", positions %" PRId64
                ", window %" PRId64 "%s\n",
                c->layers, c->hidden, c->intermediate, c->heads, c->kv_heads, c->head_dim, c->vocab,
                c->max_positions, c->window, c->tied ? ", tied head" : "");
        return;
    }
    fprintf(to,
            "  images of %" PRId64 " x %" PRId64 " pixels, %" PRId64 " channel(s), blocks %" PRId64
            ", features %" PRId64 ", head %s, classes %" PRId64,
            v->image, v->image, v->channels, hn_vision_layers(v), hn_vision_width(v),
            v->classes ? hn_vision_head(v) : "none", v->classes);
    for (int64_t i = 0; i < v->classes && hn_model_class(m, i) != NULL; i++)
        fprintf(to, "%s%s", i ? ", " : ": ", hn_model_class(m, i));
    fputc('\n', to);
    for (int64_t k = 0; k < v->channels; k++)
        fprintf(to, "%s%.4g (%.4g)",
                k ? ", " : "  mean and deviation of a channel: ", (double)v->mean[k],
                (double)v->std[k]);
    fputc('\n', to);
}

static hn_status info_model(hn_session *s, const char *dir, FILE *to)
{
    char digest[HN_SHA256_HEX];
    hn_model m = {0};
    HN_TRY(hn_model_open(dir, "f32", &s->log, &m));
    hn_status st = hn_model_dir_digest(m.dir, digest);
    if (st == HN_OK) {
        const bool decoder = m.kind == HN_MODEL_DECODER;
        int64_t n = 0;
        for (int64_t i = 0; i < hn_model_dir_count(m.dir); i++)
            n += hn_st_elements(hn_model_dir_at(m.dir, i));
        fprintf(to, "%s: %s, %" PRId64 " values in %" PRId64 " tensors\n", dir,
                decoder ? m.decoder.class_name : m.vision.architecture, n,
                hn_model_dir_count(m.dir));
        print_sizes(to, &m);
        fprintf(to, "  tensor-tree digest %s\n", digest);
        for (int64_t i = 0; i < hn_model_dir_count(m.dir); i++)
            print_tensor(to, hn_model_dir_at(m.dir, i));
    }
    hn_model_close(&m);
    return st;
}

static hn_status info_adapter(const char *dir, FILE *to)
{
    hn_peft_adapter a = {0};
    HN_TRY(hn_peft_load(dir, &a));
    fprintf(to, "%s: PEFT %s adapter, rank %" PRId64 ", alpha %g%s, base %s, %" PRId64 " modules\n",
            dir, a.config.dora ? "DoRA" : "LoRA", a.config.r, a.config.alpha,
            a.config.rslora ? " (rsLoRA)" : "",
            a.config.base_model ? a.config.base_model : "not named", a.n);
    for (int64_t i = 0; i < a.n; i++)
        fprintf(to, "  %-48s rank %" PRId64 ", %" PRId64 " -> %" PRId64 ", scale %g\n",
                a.modules[i].module, a.modules[i].r, a.modules[i].in, a.modules[i].out,
                a.modules[i].scale);
    for (int64_t i = 0; i < a.n_saved; i++) fprintf(to, "  %-48s whole\n", a.saved[i].name);
    hn_peft_clear(&a);
    return HN_OK;
}

static hn_status info_checkpoint(const char *dir, FILE *to)
{
    json_t *state = NULL;
    int64_t step = 0, tokens = 0;
    HN_TRY(hn_ckpt_verify(dir));
    char *path = hn_asprintf("%s/state.json", dir);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the path %s", dir);
    hn_status st = hn_json_load(path, &state);
    if (st == HN_OK) st = hn_json_get_i64(state, "step", path, 0, INT64_MAX, true, &step);
    if (st == HN_OK) st = hn_json_get_i64(state, "tokens", path, 0, INT64_MAX, true, &tokens);
    if (st == HN_OK)
        fprintf(to, "%s: complete checkpoint, step %" PRId64 ", %" PRId64 " trained tokens\n", dir,
                step, tokens);
    json_decref(state);
    hn_free(path);
    return st;
}

static hn_status info_run(hn_session *s, const char *dir, FILE *to)
{
    char *newest = NULL;
    HN_TRY(hn_ckpt_newest(dir, &s->log, &newest, NULL));
    fprintf(to, "%s: a run's folder\n", dir);
    if (newest == NULL) fputs("  no complete checkpoint\n", to);
    const hn_status st = newest ? info_checkpoint(newest, to) : HN_OK;
    hn_free(newest);
    return st;
}

/* Rows of a delta pack that are no blocks. */
static void print_others(FILE *to, const json_t *rows)
{
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        const char *name = json_string_value(json_object_get(row, "base_name"));
        const json_t *rank = json_object_get(row, "rank");
        if (hn_pack_is_row(row) || name == NULL) continue;
        if (rank != NULL)
            fprintf(to, "  %-48s low-rank pair, rank %lld\n", name,
                    (long long)json_integer_value(rank));
        else
            fprintf(to, "  %-48s whole\n", name);
    }
}

static void print_matrix(FILE *to, const hn_pack_matrix *m)
{
    const int64_t all = (m->out / m->br) * (m->in / m->bc);
    fprintf(to,
            "  %-48s [%" PRId64 ", %" PRId64 "], %" PRId64 " of %" PRId64 " blocks of %" PRId64
            " x %" PRId64 " (%.3g %%)%s\n",
            m->name, m->out, m->in, m->n, all, m->br, m->bc, 100 * (double)m->n / (double)all,
            m->set ? ", kept from earlier supports" : "");
}

static hn_status info_pack(const char *path, FILE *to)
{
    hn_pack p = {0};
    json_t *manifest = NULL;
    int64_t blocks = 0, values = 0;
    HN_TRY(hn_sparse_read_pack(path, &p, &manifest));
    for (int64_t i = 0; i < p.n; i++) {
        blocks += p.matrix[i].n;
        values += p.matrix[i].n * p.matrix[i].br * p.matrix[i].bc;
    }
    const json_t *base = json_object_get(manifest, "base");
    const json_t *training = json_object_get(manifest, "training");
    const char *name = json_string_value(json_object_get(base, "name"));
    const char *kind = json_string_value(json_object_get(manifest, "kind"));
    fprintf(to,
            "%s: delta pack (%s) of step %lld, base %s, %" PRId64 " blocks with %" PRId64
            " values\n",
            path, kind ? kind : "kind not named",
            (long long)json_integer_value(json_object_get(training, "steps")),
            name ? name : "not named", blocks, values);
    for (int64_t i = 0; i < p.n; i++) print_matrix(to, &p.matrix[i]);
    print_others(to, json_object_get(manifest, "tensors"));
    json_decref(manifest);
    hn_pack_free(&p);
    return HN_OK;
}

static hn_status info_safetensors(const char *path, FILE *to)
{
    hn_st_file *f = NULL;
    HN_TRY(hn_st_open(path, &f));
    fprintf(to, "%s: safetensors, %" PRId64 " tensors\n", path, hn_st_count(f));
    for (int64_t i = 0; i < hn_st_count(f); i++) print_tensor(to, hn_st_at(f, i));
    hn_st_close(f);
    return HN_OK;
}

hn_status hn_verb_info(hn_session *s, FILE *to)
{
    const char *path = s->run->path;
    if (holds(path, "COMPLETE")) return info_checkpoint(path, to);
    if (holds(path, "delta.safetensors")) return info_pack(path, to);
    if (holds(path, "adapter_config.json")) return info_adapter(path, to);
    if (holds(path, "run.yaml")) return info_run(s, path, to);
    if (hn_is_folder(path)) return info_model(s, path, to);
    return info_safetensors(path, to);
}
