/* check, plan, info: what the stages would do, what they would take, where they are. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/hyperflow_cost.h"

static const double gib = 0x1p30, mib = 0x1p20;

/* ---- check ---- */

static hn_status print_part(const hn_hyperflow *r, const hn_hf_domain *d, hn_hf_part part)
{
    hn_episode_sampler *s = NULL;
    const int32_t *classes;
    if (d->source[part] == NULL) return HN_OK;
    HN_TRY(hn_hyperflow_sampler(r, d, part, &s));
    const hn_episode_sizes z = hn_episode_sampler_sizes(s);
    fprintf(r->to, "  %-9s %4d classes   %s   (rows: support %" PRId64 ", query %" PRId64 ")\n",
            hn_hf_part_name(part), (int)hn_episode_source_classes(d->source[part], &classes),
            hn_episode_sampler_text(s), z.support, z.query);
    hn_episode_sampler_free(s);
    return HN_OK;
}

static hn_status print_domains(const hn_hyperflow *r)
{
    for (int64_t i = 0; i < r->n_domains; i++) {
        const hn_hf_domain *d = &r->domain[i];
        const hn_images *v = hn_image_set_view(d->images);
        fprintf(r->to, "%s: %" PRId64 " images of %" PRId64 " x %" PRId64 "%s\n", d->name, v->count,
                v->h, v->w,
                d->runs     ? ", episodes of its own"
                : d->trains ? ", trained on"
                            : "");
        for (int p = 0; p < HN_HF_PARTS; p++) HN_TRY(print_part(r, d, (hn_hf_part)p));
    }
    return HN_OK;
}

static hn_status print_work(const hn_hyperflow *r)
{
    const hn_hyperflow_config *c = r->c;
    hn_trajectory_head h;
    hn_trajectory_bytes bytes;
    HN_TRY(hn_hf_trajectory_head(r, &h));
    HN_TRY(hn_trajectory_budget(&h, &bytes));
    fprintf(r->to,
            "adapted: %" PRId64 " numbers, %" PRId64 " tokens of %" PRId64 ", layout %.12s\n",
            r->theta.count, r->theta.tokens, r->theta.width, r->theta.digest);
    fprintf(r->to,
            "generate: %" PRId64 " trajectories (%" PRId64 " episodes, %" PRId64
            " starts), %" PRId64 " steps each; %.3f GiB on disk\n",
            h.records, hn_hf_episodes(r), c->inits, c->tune_steps, (double)bytes.file_bytes / gib);
    fprintf(r->to, "train: %" PRId64 " steps of %" PRId64 " support sets at %" PRId64 " points\n",
            c->iterations, c->drift_batch, c->times);
    fprintf(r->to,
            "eval: %" PRId64 " domains, %" PRId64 " episodes each; %" PRId64
            " one-shot runs; %" PRId64 " validation episodes for a choice\n",
            r->n_targets - (r->runs != NULL), c->test_episodes,
            r->runs ? hn_omniglot_runs_count(r->runs) : 0, c->valid_episodes);
    return HN_OK;
}

hn_status hn_hyperflow_check(const hn_verb_call *c)
{
    hn_hyperflow r;
    hn_status st = hn_hyperflow_open(c, true, &r);
    if (st == HN_OK) st = print_domains(&r);
    if (st == HN_OK) st = print_work(&r);
    hn_hyperflow_close(&r);
    return st;
}

/* ---- plan ---- */

typedef struct {
    hn_hf_bench bench;
    hn_hf_planned one;
    hn_few_shot_tuner *bias; /* that of the trajectories */
} planned;

static void planned_free(planned *p)
{
    hn_hf_planned_free(&p->one);
    hn_few_shot_tuner_free(p->bias);
    hn_hf_bench_close(&p->bench);
}

static void print_cost(const hn_hyperflow *r, const planned *p)
{
    const hn_hf_cost f = hn_hf_cost_of(r, &p->bench, &p->one);
    const hn_episode_sizes *z = &p->bench.sizes;
    const double image = f.classify_flops / (double)(z->support + z->query),
                 adapt = f.encoder_flops + f.drift_flops, full = f.full_flops;
    const double bytes = (double)f.adapt_bytes, most = (double)f.full_bytes;
    fprintf(r->to, "plans for this device: %s\n", hn_device_text(r->device));
    fprintf(r->to,
            "an episode of %" PRId64 " support and %" PRId64 " query images, %" PRId64
            " steps of tuning, %" PRId64 " of integration (%s):\n",
            z->support, z->query, r->c->tune_steps, r->c->integration_steps, r->c->integrator);
    fprintf(
        r->to,
        "  adaptation        %10.1f MiB planned (encoder, drift network); with the backbone and "
        "the queries %.1f\n"
        "  full fine-tuning  %10.1f MiB: adaptation takes %.2f %% of it\n",
        bytes / mib, (double)f.whole_bytes / mib, most / mib, 100 * bytes / most);
    fprintf(r->to,
            "  adaptation        %10.3f GFLOP (encoder %.3f, drift network %.3f)\n"
            "  full fine-tuning  %10.3f GFLOP: adaptation takes %.4f %% of it\n"
            "  classification    %10.3f GFLOP (backbone, support and queries)\n",
            1e-9 * adapt, 1e-9 * f.encoder_flops, 1e-9 * f.drift_flops, 1e-9 * full,
            100 * adapt / full, 1e-9 * f.classify_flops);
    const double each = (double)(r->c->tune_steps * z->support) * 4 * image;
    fprintf(r->to,
            "trajectories: %" PRId64 " episodes at once, %.1f MiB; %" PRId64
            " of about %.3f TFLOP each: %.1f PFLOP\n",
            hn_few_shot_tuner_at_once(p->bias), (double)hn_few_shot_tuner_bytes(p->bias) / mib,
            r->c->trajectories, 1e-12 * each, 1e-15 * each * (double)r->c->trajectories);
}

static hn_status print_plan(hn_hyperflow *r, planned *p)
{
    const hn_hf_encoder from = {
        .path = r->c->encoder, .weights = r->c->encoder_weights, .image = r->c->encoder_image};
    HN_TRY(hn_hyperflow_encoder_open(r, &from));
    HN_TRY(hn_hf_bench_open(r, &r->domain[0], HN_HF_TRAIN, HN_HF_VALID, &p->bench));
    const hn_drift_config drift = hn_hf_drift_config(r);
    HN_TRY(hn_hf_planned_open(r, &p->bench, &drift, &p->one));
    hn_few_shot_tune_options o = hn_hf_tune_options(r, &p->bench, hn_hf_theta_set(r));
    o.images = &p->one.few;
    HN_TRY(hn_few_shot_tuner_new(&o, &p->bias));
    char *adaptor = hn_adaptor_plan_text(p->one.adaptor),
         *full = hn_few_shot_tuner_plan_text(p->one.full);
    const bool there = adaptor != NULL && full != NULL;
    if (there) fprintf(r->to, "adaptation\n%s\nfull fine-tuning\n%s\n", adaptor, full);
    hn_free(adaptor);
    hn_free(full);
    if (!there) return HN_FAIL(HN_ERR_MEMORY, "no memory for the text of a plan");
    print_cost(r, p);
    return HN_OK;
}

hn_status hn_hyperflow_plan(const hn_verb_call *c)
{
    hn_hyperflow r;
    planned p = {.bias = NULL};
    hn_status st = hn_hyperflow_open(c, true, &r);
    if (st == HN_OK) st = print_plan(&r, &p);
    planned_free(&p);
    hn_hyperflow_close(&r);
    return st;
}

/* ---- info ---- */

static hn_status info_trajectories(const hn_hyperflow *r)
{
    hn_trajectories t = {0};
    char *path = NULL;
    HN_TRY(hn_hyperflow_path(r, "trajectories.bin", &path));
    hn_status st = HN_OK;
    if (!hn_is_file(path))
        fprintf(r->to, "trajectories: none yet\n");
    else if ((st = hn_trajectories_open(path, &t)) == HN_OK)
        fprintf(r->to,
                "trajectories: %" PRId64 " of %" PRId64 ", %" PRId64 " damaged; %" PRId64
                " knots of %" PRId64 " numbers; domains %s\n",
                t.n, t.head.records, t.damaged, t.head.knots, t.head.numbers, t.head.domains);
    hn_trajectories_close(&t);
    hn_free(path);
    return st;
}

/* A folder with encoder.json is one of train. */
static hn_status info_drift(const hn_hyperflow *r, const char *name)
{
    int64_t step = -1;
    char *dir = NULL, *newest = NULL;
    HN_TRY(hn_hyperflow_path(r, name, &dir));
    char *encoder = hn_asprintf("%s/encoder.json", dir), *network = NULL;
    hn_status st = encoder ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "a path");
    if (st == HN_OK && hn_is_file(encoder)) {
        st = hn_ckpt_newest(dir, &r->log, &newest, &step);
        network = hn_asprintf("%s/drift.safetensors", dir);
        if (st == HN_OK && network != NULL)
            fprintf(r->to, "drift network %s: step %" PRId64 ", %s\n", name, step < 0 ? 0 : step,
                    hn_is_file(network) ? "done" : "not done");
    }
    hn_free(network);
    hn_free(newest);
    hn_free(encoder);
    hn_free(dir);
    return st;
}

static hn_status info_folders(const hn_hyperflow *r)
{
    char **names = NULL, *cells = NULL;
    int64_t n = 0;
    HN_TRY(hn_folder_names(r->out, &names, &n));
    hn_status st = HN_OK;
    for (int64_t i = 0; i < n && st == HN_OK; i++) st = info_drift(r, names[i]);
    hn_folder_names_free(names, n);
    if (st == HN_OK) st = hn_hyperflow_path(r, "cells", &cells);
    n = 0;
    names = NULL;
    if (st == HN_OK && hn_is_folder(cells)) st = hn_folder_names(cells, &names, &n);
    if (st == HN_OK) fprintf(r->to, "cells: %" PRId64 "\n", n);
    hn_folder_names_free(names, n);
    hn_free(cells);
    return st;
}

hn_status hn_hyperflow_info(const hn_verb_call *c)
{
    hn_hyperflow r;
    hn_status st = hn_hyperflow_open(c, false, &r);
    if (st == HN_OK) st = hn_hyperflow_folder_read(&r, false);
    if (st == HN_OK) {
        fprintf(r.to, "backbone: %s, SHA-256 %s\nadapted: %s, %" PRId64 " numbers, layout %s\n",
                r.c->model, r.base_digest, r.c->adapted, r.theta.count, r.theta.digest);
        st = info_trajectories(&r);
    }
    if (st == HN_OK) st = info_folders(&r);
    hn_hyperflow_close(&r);
    return st;
}
