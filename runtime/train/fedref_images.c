/* Runs about images: any classifier, by hn_fed_setup. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/train/client_batch.h"
#include "runtime/train/client_block.h"
#include "runtime/train/fedref_subject.h"

typedef struct {
    hn_fedref_subject s;
    const hn_fedref_config *c;
    hn_fed_setup setup;
    hn_fed_client *evaluator;
    hn_device **lane;    /* [lanes - 1] besides the setup's */
    double *class_score; /* [classes] */
} images_subject;

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

static void release(hn_fedref_subject *s)
{
    images_subject *m = (images_subject *)s;
    hn_fed_sim_free(s->sim);
    for (int64_t k = 0; m->lane && k + 1 < m->c->lanes; k++) hn_device_close(m->lane[k]);
    hn_free(m->lane);
    hn_free(s->lane);
    hn_fed_client_free(m->evaluator);
    hn_free(m->class_score);
    hn_fed_setup_close(&m->setup);
    hn_free(m);
}

/* ---- clients ---- */

/* Each lane has a device with a stream of its own on the same GPU. */
static hn_status open_lanes(images_subject *m)
{
    const int64_t n = m->c->lanes;
    if (n == 1) return HN_OK;
    if (hn_device_kind_of(m->setup.device) != HN_DEVICE_CUDA)
        return HN_FAIL(HN_ERR_ARG,
                       "--lanes %" PRId64 ": clients on the CPU come one after the other, each on "
                       "all threads",
                       n);
    m->lane = hn_calloc((size_t)n, sizeof(hn_device *));
    m->s.lane = hn_calloc((size_t)n, sizeof(hn_engine *));
    if (m->lane == NULL || m->s.lane == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " lanes", n);
    for (int64_t k = 0; k + 1 < n; k++) HN_TRY(hn_device_open(m->c->fed.device, &m->lane[k]));
    m->setup.sim.lane = m->lane;
    m->setup.sim.lanes = n;
    return HN_OK;
}

static hn_status simulate_one(images_subject *m)
{
    hn_fedref_subject *s = &m->s;
    HN_TRY(open_lanes(m));
    HN_TRY(hn_fed_one_new(&m->setup.sim, &s->sim));
    s->sim_engine = hn_fed_client_engine(hn_fed_one_client(s->sim, 0));
    while (s->n_lanes + 1 < hn_fed_one_lanes(s->sim)) {
        s->lane[s->n_lanes] = hn_fed_client_engine(hn_fed_one_client(s->sim, s->n_lanes + 1));
        s->n_lanes++;
    }
    return HN_OK;
}

/* Clients of a group: --at-once, or all that a rank has. Groups as they are on one rank keep its
 * bits, so where the user has said how large they are they stay whole. */
static int64_t group_of(images_subject *m, int64_t each, int64_t ranks)
{
    const int64_t asked = m->c->at_once;
    const bool replicas = is(m->c->simulate, "replicas");
    if (asked > 0) {
        const int64_t group = asked < each ? asked : each;
        m->s.shares.unit = replicas ? group : 1;
        return group;
    }
    if (!replicas) return each; /* by steps: a rank may have more of them than others */
    m->s.shares.by_count = true;
    const int64_t share = (each + ranks - 1) / ranks;
    return ranks > 1 && share < 2 ? 2 : share;
}

static hn_status simulate(hn_fedref_subject *s, int64_t each, int64_t ranks)
{
    images_subject *m = (images_subject *)s;
    hn_fed_sim_options *o = &m->setup.sim;
    o->local = s->local;
    if (is(m->c->simulate, "one")) return simulate_one(m);
    o->at_once = group_of(m, each, ranks);
    if (is(m->c->simulate, "block")) return hn_fed_blocks_new(o, &s->sim);
    HN_TRY(hn_fed_replicas_new(o, &s->sim));
    s->sim_engine = hn_fed_replicas_engine(s->sim);
    const bool groups = m->c->at_once > 0 && o->at_once < each; /* of a rank, perhaps several */
    s->stage = groups ? hn_fed_replicas_stage(s->sim) : 0;
    return HN_OK;
}

static hn_status layout(const hn_fedref_subject *s, hn_fed_layout *out)
{
    const images_subject *m = (const images_subject *)s;
    return hn_fed_setup_layout(&m->setup, m->evaluator, out);
}

static hn_status get(const hn_fedref_subject *s, float *value)
{
    return hn_fed_client_get(((const images_subject *)s)->evaluator, value);
}

static hn_status set(hn_fedref_subject *s, const float *value)
{
    return hn_fed_client_set(((images_subject *)s)->evaluator, value);
}

/* ---- measurements ---- */

static hn_status measure(hn_fedref_subject *s, int64_t part, void *record)
{
    return hn_fed_client_measure(((images_subject *)s)->evaluator, part, record);
}

static void summarize(hn_fedref_subject *s, const void *record, hn_fedref_scores *out)
{
    images_subject *m = (images_subject *)s;
    hn_fed_scores scores;
    hn_fed_client_score(m->evaluator, record, &scores);
    for (int64_t k = 0; k < s->classes; k++)
        m->class_score[k] = scores.class_rows[k] > 0
                                ? (double)scores.class_hits[k] / (double)scores.class_rows[k]
                                : NAN;
    *out = (hn_fedref_scores){
        .score = scores.accuracy, .loss = scores.loss, .hd95 = NAN, .class_score = m->class_score};
}

static double print(hn_fedref_subject *s, int64_t round, const void *record, FILE *to)
{
    hn_fed_scores r;
    char text[HN_FEDREF_CLASS];
    hn_fed_client_score(((images_subject *)s)->evaluator, record, &r);
    fprintf(to,
            "behind round %" PRId64 ": accuracy %.4f %% (%" PRId64 " of %" PRId64 "), loss %.6f\n",
            round, 100 * r.accuracy, r.hits, r.rows, r.loss);
    for (int64_t k = 0; k < s->classes; k++)
        if (r.class_rows[k] > 0)
            fprintf(to, "  %-20s %8.2f %% of %" PRId64 "\n", hn_fedref_class(s, k, text),
                    100 * (double)r.class_hits[k] / (double)r.class_rows[k], r.class_rows[k]);
    return r.accuracy;
}

/* ---- files ---- */

static hn_status write_json(const json_t *o, const char *dir, const char *name)
{
    char *path = hn_asprintf("%s/%s", dir, name);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", dir);
    const hn_status st = hn_json_save(path, o, false);
    hn_free(path);
    return st;
}

static hn_status write_settings(const hn_fedref_subject *s, const char *dir)
{
    const images_subject *m = (const images_subject *)s;
    const hn_images *v = hn_image_set_view(m->setup.train);
    const bool named = v->n_classes == s->classes; /* every class of the head */
    json_t *config = NULL, *preprocessor = NULL;
    hn_status st = hn_model_config(&m->setup.model, named ? v->n_classes : 0,
                                   named ? (char *const *)v->class_name : NULL, &config);
    if (st == HN_OK) st = write_json(config, dir, "config.json");
    if (st == HN_OK) st = hn_model_preprocessor(&m->setup.model, NULL, &preprocessor);
    if (st == HN_OK && preprocessor != NULL)
        st = write_json(preprocessor, dir, "preprocessor_config.json");
    json_decref(config);
    json_decref(preprocessor);
    return st;
}

/* ---- opening ---- */

static void describe(images_subject *m)
{
    hn_fedref_subject *s = &m->s;
    const hn_images *v = hn_image_set_view(m->setup.train);
    s->samples = v->count;
    s->label = v->label;
    s->n_labels = v->n_classes;
    s->label_name = s->class_name = v->class_name;
    s->classes = m->setup.model.vision.classes;
    s->n_class_names = v->n_classes;
    s->base_digest = m->setup.base_digest;
    s->train_digest = hn_image_set_digest(m->setup.train);
    s->eval_digest = hn_image_set_digest(m->setup.eval);
    s->device = m->setup.device;
    s->local = m->setup.sim.local;
    s->seed = m->setup.sim.seed;
    s->support = m->setup.support.count > 0 ? &m->setup.support : NULL;
    s->peft = is(m->c->fed.payload, "lora") ? &m->setup.peft : NULL;
}

static hn_status open(images_subject *m, const hn_log *log)
{
    HN_TRY(hn_fed_setup_open(&m->c->fed, log, &m->setup));
    if (m->setup.eval == NULL)
        return HN_FAIL(HN_ERR_ARG,
                       "--data %s: nothing is held out to measure with; --eval-data or "
                       "--eval-split says what",
                       m->c->fed.data);
    HN_TRY(hn_fed_setup_choose(&m->setup));
    describe(m);
    m->class_score = hn_calloc((size_t)m->s.classes, sizeof *m->class_score);
    if (m->class_score == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "table of %" PRId64 " classes", m->s.classes);
    HN_TRY(hn_fed_setup_evaluator(&m->setup, &m->evaluator));
    m->s.engine = hn_fed_client_engine(m->evaluator);
    m->s.parts = hn_fed_client_parts(m->evaluator);
    m->s.part_bytes = hn_fed_client_part_bytes(m->evaluator);
    return HN_OK;
}

hn_status hn_fedref_images_open(const hn_fedref_config *c, const hn_log *log,
                                hn_fedref_subject **out)
{
    images_subject *m = hn_calloc(1, sizeof *m);
    if (m == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a run", sizeof *m);
    *m = (images_subject){.s = {.score = "accuracy",
                                .title = "accuracy",
                                .sample = "images",
                                .kind = "classes",
                                .simulate = simulate,
                                .layout = layout,
                                .get = get,
                                .set = set,
                                .measure = measure,
                                .summarize = summarize,
                                .print = print,
                                .write_settings = write_settings,
                                .free = release},
                          .c = c};
    const hn_status st = open(m, log);
    if (st == HN_OK)
        *out = &m->s;
    else
        release(&m->s);
    return st;
}
