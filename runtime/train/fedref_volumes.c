/* Runs about volumes: a segmenter, and sites that are regions of volumes (fed_segment.h). */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/arena.h"
#include "runtime/model/seg_model.h"
#include "runtime/train/fed_segment.h"
#include "runtime/train/fedref_subject.h"

enum { MOST_RELABELLED = 16 };

typedef struct {
    hn_fedref_subject s;
    const hn_fedref_config *c;
    hn_log log;
    hn_seg_model model;
    hn_volume_channels channels;
    hn_volumes train, other; /* other: of --eval-data; empty: regions of `train` are held out */
    hn_regions all, train_regions, eval_regions;
    hn_patches *patches;
    hn_adapt adapt;
    hn_segmenter_blend blend;
    hn_fed_sim *sim;
    int32_t *site; /* [samples] */
    hn_arena names;
    const char **site_name;
    double class_score[HN_SEG_CLASSES];
    char base_digest[HN_SHA256_HEX], train_digest[HN_SHA256_HEX], eval_digest[HN_SHA256_HEX];
} volumes_subject;

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }
static const char *or_null(const char *text) { return text[0] ? text : NULL; }

static const hn_volumes *held_out(const volumes_subject *m)
{
    return m->other.count > 0 ? &m->other : &m->train;
}

static void release(hn_fedref_subject *s)
{
    volumes_subject *m = (volumes_subject *)s;
    hn_fed_sim_free(m->sim);
    hn_patches_free(m->patches);
    hn_regions_free(&m->all);
    hn_regions_free(&m->train_regions);
    hn_regions_free(&m->eval_regions);
    hn_volumes_free(&m->train);
    hn_volumes_free(&m->other);
    hn_seg_model_close(&m->model);
    hn_free(m->site);
    hn_free(m->site_name);
    hn_arena_free(&m->names);
    hn_device_close(s->device);
    hn_free(m);
}

/* ---- sizes ---- */

static bool length_of(const char **at, int64_t *out)
{
    char *end = NULL;
    if (!isdigit((unsigned char)**at)) return false;
    errno = 0;
    *out = strtoll(*at, &end, 10);
    *at = end;
    return errno == 0 && *out >= 1 && *out <= HN_NIFTI_MAX_SIDE;
}

/* "64" or "64x96x80": three lengths from 1. */
static hn_status sizes_of(const char *option, const char *text, int64_t size[3])
{
    const char *at = text;
    int n = 0;
    bool good = length_of(&at, &size[n++]);
    while (good && n < 3 && *at == 'x') {
        at++;
        good = length_of(&at, &size[n++]);
    }
    if (!good || *at != '\0' || n == 2)
        return HN_FAIL(HN_ERR_ARG, "--%s %s: one length or three, as 64 or 64x96x80, 1 to %d",
                       option, text, HN_NIFTI_MAX_SIDE);
    if (n == 1) size[1] = size[2] = size[0];
    return HN_OK;
}

/* ---- volumes and sites ---- */

static hn_status read_volumes(const volumes_subject *m, const char *data, const char *labels,
                              hn_volumes *out)
{
    const hn_fedref_volume_config *v = &m->c->volumes;
    hn_relabel relabel[MOST_RELABELLED];
    hn_volume_options o = {.data = data,
                           .labels = labels,
                           .channels = m->channels,
                           .volume = v->volume,
                           .relabel = relabel,
                           .n_classes = (int32_t)m->model.config.classes};
    HN_TRY(hn_intensity_parse(v->intensity, &o.intensity));
    if (v->relabel[0] != '\0')
        HN_TRY(hn_relabel_parse(v->relabel, relabel, MOST_RELABELLED, &o.n_relabel));
    HN_TRY(hn_volumes_open(&o, out));
    hn_volumes_report(out, &m->log);
    return HN_OK;
}

/* Boxes are sites of their own: those of a list would be lost. */
static hn_status check_unnamed(const hn_volumes *v)
{
    for (int64_t i = 0; i < v->count; i++)
        if (v->volume[i].site[0] != '\0')
            return HN_FAIL(HN_ERR_ARG,
                           "--sites: cuts sites out of volumes, but %s has one already: %s",
                           v->volume[i].name, v->volume[i].site);
    return HN_OK;
}

/* The regions of a set: its volumes as they are, or cut, with the scanners of those sites. */
static hn_status make_regions(const volumes_subject *m, const hn_volumes *of, hn_regions *out)
{
    const hn_fedref_volume_config *v = &m->c->volumes;
    if (v->sites[0] == '\0') {
        if (v->scale_spread > 0 || v->shift_spread > 0)
            return HN_FAIL(HN_ERR_ARG, "--scale-spread, --shift-spread: of sites that --sites cuts "
                                       "out of volumes");
        return hn_regions_of_volumes(of, out);
    }
    hn_site_options o = {.scale_spread = (float)v->scale_spread,
                         .shift_spread = (float)v->shift_spread,
                         .seed = (uint64_t)m->c->fed.seed};
    HN_TRY(sizes_of("sites", v->sites, o.cuts));
    HN_TRY(check_unnamed(of));
    return hn_regions_cut(of, &o, out);
}

/* Box k of volume i has the scanner of box k of the i-th training volume. */
static hn_status check_scanners(const volumes_subject *m)
{
    const hn_fedref_volume_config *v = &m->c->volumes;
    if ((v->scale_spread == 0 && v->shift_spread == 0) || m->other.count == m->train.count)
        return HN_OK;
    return HN_FAIL(HN_ERR_ARG,
                   "--eval-data %s: %" PRId64 " volumes, --data has %" PRId64
                   "; sites with scanners (--scale-spread, --shift-spread) want as many of both, "
                   "in the same order",
                   m->c->fed.eval_data, m->other.count, m->train.count);
}

/* Other volumes, or the ends of all regions. */
static hn_status hold_out(volumes_subject *m)
{
    const hn_fed_config *f = &m->c->fed;
    if (f->eval_data[0] == '\0' && f->eval_split <= 0)
        return HN_FAIL(HN_ERR_ARG,
                       "--data %s: nothing is held out to measure with; --eval-data or "
                       "--eval-split says what",
                       f->data);
    if (f->eval_data[0] != '\0' && f->eval_split > 0)
        return HN_FAIL(HN_ERR_ARG, "--eval-split: beside --eval-data nothing else is held out");
    const char *const labels = or_null(m->c->volumes.eval_labels);
    if (f->eval_data[0] == '\0' && labels != NULL)
        return HN_FAIL(HN_ERR_ARG, "--eval-labels: of --eval-data, which is not there");
    if (f->eval_data[0] == '\0')
        return hn_regions_hold_out(&m->all, f->eval_split, &m->train_regions, &m->eval_regions);
    HN_TRY(read_volumes(m, f->eval_data, labels, &m->other));
    HN_TRY(check_scanners(m));
    m->train_regions = m->all;
    m->all = (hn_regions){0};
    return make_regions(m, &m->other, &m->eval_regions);
}

/* Sizes that the network can read. */
static hn_status sides_of(const volumes_subject *m, const char *option, const char *text,
                          int64_t size[3])
{
    const int64_t least = hn_seg_least_side(&m->model.config);
    HN_TRY(sizes_of(option, text, size));
    for (int a = 0; a < 3; a++)
        if (size[a] < least)
            return HN_FAIL(HN_ERR_ARG, "--%s %s: %s reads sides from %" PRId64, option, text,
                           m->model.config.architecture, least);
    return HN_OK;
}

static hn_status open_patches(volumes_subject *m)
{
    const hn_fedref_volume_config *v = &m->c->volumes;
    hn_patch_options o = {.foreground = v->foreground,
                          .flip = {v->flip, v->flip, v->flip},
                          .pad = (float)v->pad,
                          .seed = (uint64_t)m->c->fed.seed};
    HN_TRY(sides_of(m, "patch", v->patch, o.size));
    return hn_patches_open(&m->train, &m->train_regions, &o, &m->patches);
}

/* As the list has them, or by number. */
static const char *name_of(volumes_subject *m, const hn_region *r)
{
    const char *listed = m->train.volume[r->volume].site;
    return listed[0] != '\0' ? listed : hn_arena_text(&m->names, "%d", (int)r->site);
}

static hn_status name_sites(volumes_subject *m)
{
    const hn_regions *r = &m->train_regions;
    const int64_t each = m->c->volumes.per_region;
    if (each > INT32_MAX / r->count)
        return HN_FAIL(HN_ERR_ARG, "--per-region %" PRId64 ": of %" PRId64 " regions, too many",
                       each, r->count);
    m->s.samples = hn_fed_segment_samples(m->patches, each);
    m->site = hn_malloc((size_t)m->s.samples * sizeof *m->site);
    m->site_name = hn_calloc((size_t)r->n_sites, sizeof *m->site_name);
    if (m->site == NULL || m->site_name == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "table of %" PRId64 " patches", m->s.samples);
    hn_fed_segment_sites(m->patches, each, m->site);
    for (int64_t i = 0; i < r->count; i++) {
        const char **name = &m->site_name[r->region[i].site];
        if (*name == NULL) *name = name_of(m, &r->region[i]);
        if (*name == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    }
    m->s.label = m->site;
    m->s.n_labels = r->n_sites;
    m->s.label_name = m->site_name;
    return HN_OK;
}

/* Of the values and labels, and of the boxes that are cut out of them, one after the other. */
static hn_status digest_regions(const hn_volumes *v, const hn_regions *r, char hex[HN_SHA256_HEX])
{
    char text[1024];
    memcpy(hex, v->digest, HN_SHA256_HEX);
    for (int64_t i = 0; i < r->count; i++) {
        const hn_region *p = &r->region[i];
        int n = snprintf(text, sizeof text,
                         "%s %" PRId64 " at %" PRId64 " %" PRId64 " %" PRId64 " size %" PRId64
                         " %" PRId64 " %" PRId64 " site %d %a %a",
                         hex, p->volume, p->at[0], p->at[1], p->at[2], p->size[0], p->size[1],
                         p->size[2], (int)p->site, (double)p->scale[0], (double)p->shift[0]);
        for (int32_t c = 1; c < v->channels; c++)
            n += snprintf(text + n, sizeof text - (size_t)n, " %a %a", (double)p->scale[c],
                          (double)p->shift[c]);
        HN_TRY(hn_sha256(text, (size_t)n, hex));
    }
    return HN_OK;
}

static hn_status open_volumes(volumes_subject *m)
{
    HN_TRY(read_volumes(m, m->c->fed.data, or_null(m->c->volumes.labels), &m->train));
    HN_TRY(make_regions(m, &m->train, &m->all));
    HN_TRY(hold_out(m));
    HN_TRY(open_patches(m));
    HN_TRY(name_sites(m));
    HN_TRY(digest_regions(&m->train, &m->train_regions, m->train_digest));
    return digest_regions(held_out(m), &m->eval_regions, m->eval_digest);
}

/* ---- model and clients ---- */

static hn_adapt_kind what_travels(const void *context, const char *name)
{
    const volumes_subject *m = context;
    char head[HN_SEG_NAME];
    if (is(m->c->fed.payload, "full")) return HN_ADAPT_FULL;
    const size_t n = strlen(hn_seg_head(&m->model.config, head, sizeof head));
    return strncmp(name, head, n) == 0 && name[n] == '.' ? HN_ADAPT_FULL : HN_ADAPT_FROZEN;
}

static hn_status open_model(volumes_subject *m)
{
    const hn_fed_config *f = &m->c->fed;
    HN_TRY(hn_volume_channels_parse(m->c->volumes.channels, &m->channels));
    const hn_seg_model_options o = {.path = f->model,
                                    .weights = or_null(f->weights),
                                    .classes = f->classes,
                                    .channels = m->channels.n > 0 ? m->channels.n : 1};
    HN_TRY(hn_seg_model_open(&o, &m->model));
    return hn_seg_model_digest(&m->model, (uint64_t)f->seed, m->base_digest);
}

static hn_status open_engine(volumes_subject *m, bool trains)
{
    const hn_fed_config *f = &m->c->fed;
    const hn_fedref_volume_config *v = &m->c->volumes;
    m->adapt = (hn_adapt){.parameter = what_travels, .context = m};
    m->blend =
        (hn_segmenter_blend){.overlap = v->overlap, .gaussian = v->gaussian, .pad = (float)v->pad};
    hn_fed_segment_options o = {.device = m->s.device,
                                .executor = hn_executor_of(f->executor),
                                .dtype = is(f->dtype, "bf16") ? HN_BF16 : HN_F32,
                                .config = &m->model.config,
                                .adapt = &m->adapt,
                                .terms = {.w_dice = (float)v->w_dice,
                                          .w_focal = (float)v->w_focal,
                                          .w_cross = (float)v->w_cross,
                                          .smooth = 1e-5f,
                                          .alpha = (float)v->focal_alpha,
                                          .gamma = (float)v->focal_gamma},
                                .train = m->patches,
                                .trains = trains,
                                .per_region = v->per_region,
                                .local = m->s.local,
                                .seed = m->s.seed};
    HN_TRY(sides_of(m, "window", v->window[0] ? v->window : v->patch, o.window));
    HN_TRY(hn_fed_segment_new(&o, &m->sim));
    m->s.engine = hn_fed_segment_engine(m->sim);
    return hn_seg_model_load(&m->model, hn_engine_params(m->s.engine), m->s.seed);
}

/* The engine that measures is the one that trains: values are set before either. */
static hn_status simulate(hn_fedref_subject *s, int64_t each, int64_t ranks)
{
    (void)each, (void)ranks;
    s->sim_engine = s->engine;
    return HN_OK;
}

static hn_status layout(const hn_fedref_subject *s, hn_fed_layout *out)
{
    const volumes_subject *m = (const volumes_subject *)s;
    HN_TRY(hn_fed_values_layout(&s->local, hn_engine_params(s->engine), out));
    return is(m->c->fed.payload, "full") ? HN_OK : hn_fed_layout_bind(out, m->base_digest);
}

static hn_status get(const hn_fedref_subject *s, float *value)
{
    return hn_fed_values_get(&s->local, hn_engine_params(s->engine), value);
}

static hn_status set(hn_fedref_subject *s, const float *value)
{
    return hn_fed_values_set(&s->local, hn_engine_params(s->engine), value);
}

/* ---- measurements ---- */

/* A part is a region. */
static hn_status measure(hn_fedref_subject *s, int64_t part, void *record)
{
    volumes_subject *m = (volumes_subject *)s;
    m->blend.stop = s->stop;
    return hn_fed_segment_measure(m->sim, held_out(m), &m->eval_regions, &m->blend, part, record);
}

static void summarize(hn_fedref_subject *s, const void *record, hn_fedref_scores *out)
{
    volumes_subject *m = (volumes_subject *)s;
    hn_fed_segment_scores r;
    hn_fed_segment_score(m->sim, &m->eval_regions, record, &r);
    m->class_score[0] = NAN; /* background */
    for (int64_t k = 1; k < s->classes; k++) m->class_score[k] = r.dice[k];
    *out = (hn_fedref_scores){
        .score = r.mean_dice, .loss = NAN, .hd95 = r.mean_hd95, .class_score = m->class_score};
}

static double print(hn_fedref_subject *s, int64_t round, const void *record, FILE *to)
{
    volumes_subject *m = (volumes_subject *)s;
    hn_fed_segment_scores r;
    hn_fed_segment_score(m->sim, &m->eval_regions, record, &r);
    fprintf(to,
            "behind round %" PRId64 ": mean Dice %.4f %%, mean HD95 %.3f mm, of %" PRId64
            " held-out regions (%" PRId64 " voxels)\n",
            round, 100 * r.mean_dice, r.mean_hd95, m->eval_regions.count, r.voxels);
    for (int64_t k = 1; k < s->classes; k++)
        fprintf(to, "  class %-4" PRId64 " Dice %8.4f %%  HD95 %8.3f mm\n", k, 100 * r.dice[k],
                r.hd95[k]);
    return r.mean_dice;
}

static hn_status write_settings(const hn_fedref_subject *s, const char *dir)
{
    return hn_seg_model_save(&((const volumes_subject *)s)->model.config, dir);
}

/* ---- opening ---- */

static hn_status open(volumes_subject *m, bool trains)
{
    hn_fedref_subject *s = &m->s;
    if (m->c->fed.threads > 0) omp_set_num_threads((int)m->c->fed.threads);
    HN_TRY(open_model(m));
    HN_TRY(open_volumes(m));
    HN_TRY(hn_device_open(m->c->fed.device, &s->device));
    hn_info(&m->log, "device: %s", hn_device_text(s->device));
    s->local = hn_fed_setup_local(&m->c->fed);
    s->seed = (uint64_t)m->c->fed.seed;
    s->classes = m->model.config.classes;
    s->base_digest = m->base_digest;
    s->train_digest = m->train_digest;
    s->eval_digest = m->eval_digest;
    HN_TRY(open_engine(m, trains));
    s->sim = m->sim;
    s->parts = m->eval_regions.count;
    s->part_bytes = (size_t)s->classes * sizeof(hn_seg_score);
    return HN_OK;
}

hn_status hn_fedref_volumes_open(const hn_fedref_config *c, bool trains, const hn_log *log,
                                 hn_fedref_subject **out)
{
    volumes_subject *m = hn_calloc(1, sizeof *m);
    if (m == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a run", sizeof *m);
    *m = (volumes_subject){.s = {.volumes = true,
                                 .score = "dice",
                                 .title = "mean Dice",
                                 .sample = "patches",
                                 .kind = "sites",
                                 .grouped = true,
                                 .simulate = simulate,
                                 .layout = layout,
                                 .get = get,
                                 .set = set,
                                 .measure = measure,
                                 .summarize = summarize,
                                 .print = print,
                                 .write_settings = write_settings,
                                 .free = release},
                           .c = c,
                           .log = *log};
    const hn_status st = open(m, trains);
    if (st == HN_OK)
        *out = &m->s;
    else
        release(&m->s);
    return st;
}
