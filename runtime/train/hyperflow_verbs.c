/* check, plan, info: what the stages would do, what they would take, where they are. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/hyperflow_drift.h"

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
                v->h, v->w, d->trains ? ", trained on" : "");
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
            " validation episodes for a choice\n",
            r->n_targets, c->test_episodes, c->valid_episodes);
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
    hn_images few;                  /* as many images as an episode has: others need not be there */
    hn_adaptor *adaptor, *whole;    /* to the biases; to the predictions */
    hn_few_shot_tuner *full, *bias; /* one episode at a time; those of the trajectories */
} planned;

static void planned_free(planned *p)
{
    hn_adaptor_free(p->adaptor);
    hn_adaptor_free(p->whole);
    hn_few_shot_tuner_free(p->full);
    hn_few_shot_tuner_free(p->bias);
    hn_hf_bench_close(&p->bench);
}

static hn_status plan_adaptor(const hn_hyperflow *r, const planned *p, bool classifies,
                              hn_adaptor **out)
{
    const hn_drift_config drift = hn_hf_drift_config(r);
    const hn_adaptor_options o = {.device = r->device,
                                  .executor = hn_executor_of(r->c->executor),
                                  .drift = &drift,
                                  .integrator = hn_hf_integrator(r->c),
                                  .steps = r->c->integration_steps,
                                  .episodes = 1,
                                  .support = p->bench.sizes.support,
                                  .encoder = &r->encoder.vision,
                                  .backbone = classifies ? &r->model.vision : NULL,
                                  .theta = &r->theta,
                                  .queries = classifies ? p->bench.sizes.query : 0,
                                  .ways = classifies ? p->bench.sizes.way : 0,
                                  .scale = (float)r->c->scale,
                                  .offset = (float)r->c->offset,
                                  .images = &p->few,
                                  .dtype = r->model.dtype};
    return hn_adaptor_new(&o, out);
}

static hn_status plan_tuners(hn_hyperflow *r, planned *p)
{
    hn_few_shot_tune_options o = hn_hf_tune_options(r, &p->bench, HN_TUNE_FULL);
    o.at_once = 1;
    o.shrink = false; /* what it would take is the answer, whether the device has it or not */
    o.queries = 0;
    o.images = &p->few;
    HN_TRY(hn_few_shot_tuner_new(&o, &p->full));
    o = hn_hf_tune_options(r, &p->bench, hn_hf_theta_set(r));
    return hn_few_shot_tuner_new(&o, &p->bias);
}

static double adaptor_bytes(const hn_adaptor *a)
{
    hn_plan_sizes s = {0};
    hn_plan_sizes_of(hn_engine_program(hn_adaptor_engine(a)), &s);
    return (double)s.total_bytes;
}

static void print_cost(const hn_hyperflow *r, const planned *p)
{
    const hn_adaptor_cost f = hn_adaptor_flops(p->whole);
    const hn_episode_sizes *z = &p->bench.sizes;
    const double image = f.backbone / (double)(z->support + z->query), adapt = f.encoder + f.drift;
    /* a step: support images twice, forward and twice as much backward */
    const double full = (double)(r->c->tune_steps * 2 * z->support) * 3 * image;
    const double bytes = adaptor_bytes(p->adaptor), most = (double)hn_few_shot_tuner_bytes(p->full);
    fprintf(r->to,
            "an episode of %" PRId64 " support and %" PRId64 " query images, %" PRId64
            " steps of tuning, %" PRId64 " of integration (%s):\n",
            z->support, z->query, r->c->tune_steps, r->c->integration_steps, r->c->integrator);
    fprintf(
        r->to,
        "  adaptation        %10.1f MiB planned (encoder, drift network); with the backbone and "
        "the queries %.1f\n"
        "  full fine-tuning  %10.1f MiB: adaptation takes %.2f %% of it\n",
        bytes / mib, adaptor_bytes(p->whole) / mib, most / mib, 100 * bytes / most);
    fprintf(r->to,
            "  adaptation        %10.3f GFLOP (encoder %.3f, drift network %.3f)\n"
            "  full fine-tuning  %10.3f GFLOP: adaptation takes %.4f %% of it\n"
            "  classification    %10.3f GFLOP (backbone, support and queries)\n",
            1e-9 * adapt, 1e-9 * f.encoder, 1e-9 * f.drift, 1e-9 * full, 100 * adapt / full,
            1e-9 * f.backbone);
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
    p->few = *hn_image_set_view(p->bench.domain->images);
    const int64_t rows = p->bench.sizes.support + p->bench.sizes.query;
    if (p->few.count > rows) p->few.count = rows;
    HN_TRY(plan_adaptor(r, p, false, &p->adaptor));
    HN_TRY(plan_adaptor(r, p, true, &p->whole));
    HN_TRY(plan_tuners(r, p));
    char *adaptor = hn_adaptor_plan_text(p->adaptor), *full = hn_few_shot_tuner_plan_text(p->full);
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
    planned p = {.adaptor = NULL};
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
