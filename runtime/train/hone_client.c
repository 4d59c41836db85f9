#define _POSIX_C_SOURCE 200809L
#include "runtime/train/hone_client.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/version.h"
#include "runtime/train/fed_setup.h"

typedef enum { EMPTY, SET, TRAINED, ENCODED } progress; /* of a round */

struct hone_client {
    int64_t number, round;
    progress at;
    void (*log)(void *context, const char *line);
    void *context;
    hn_fed_config config;
    hn_options_store *store; /* owns the texts of config */
    hn_option row[96];       /* the options that store speaks of */
    hn_fed_setup setup;
    hn_fed_client *client;
    hn_fed_layout layout;
    float loss;
    float *model, *value; /* [n] that of the round; room for another one */
    float *residual;      /* [values], or NULL */
    hn_fed_bytes update;
};

const char *hone_version(void) { return HN_VERSION; }
const char *hone_last_error(void) { return hn_last_text(); }

static int code_of(hn_status st)
{
    if (st == HN_OK) return HONE_OK;
    if (st == HN_ERR_NUMERIC) return HONE_BAD_INPUT; /* a message with NaN, or nothing to send */
    return hn_status_exit_code(st) == 2 ? HONE_BAD_INPUT : HONE_FAILED;
}

/* Callers of this first version know whole structs; one that grows must take shorter ones, too. */

/* ---- loading ---- */

static void close_client(hone_client *c)
{
    hn_fed_client_free(c->client);
    hn_fed_layout_free(&c->layout);
    hn_free(c->model);
    hn_free(c->value);
    hn_free(c->residual);
    c->client = NULL;
    c->model = c->value = c->residual = NULL;
}

void hone_client_free(hone_client *c)
{
    if (c == NULL) return;
    close_client(c);
    hn_fed_bytes_free(&c->update);
    hn_fed_setup_close(&c->setup);
    hn_options_free(c->store);
    hn_free(c);
}

static void say(void *context, hn_log_level level, const char *text)
{
    const hone_client *c = context;
    (void)level;
    if (c->log != NULL) c->log(c->context, text);
}

/* The lines of the configuration as an argument list; text is cut up. */
static hn_status parse(hone_client *c, char *text)
{
    size_t n_rows = 0, most = 2;
    for (int g = 0; g < HN_FED_ROWS_GROUPS; g++) {
        size_t n;
        const hn_option *from = hn_fed_option_rows((hn_fed_row_group)g, &n);
        if (n_rows + n > sizeof c->row / sizeof *c->row)
            return HN_FAIL(HN_ERR_UNSUPPORTED, "more options than a client has rows for");
        memcpy(c->row + n_rows, from, n * sizeof *from);
        n_rows += n;
    }
    for (const char *at = text; *at; at++) most += *at == '\n';
    char **argv = hn_calloc(most, sizeof *argv), *rest = NULL;
    int argc = 1;
    if (argv == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %zu options", most);
    argv[0] = (char *)"hone_client";
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        argv[argc++] = line;
    hn_status st = HN_OK;
    for (int i = 1; i < argc && st == HN_OK; i++)
        if (argv[i][0] == '-' || strchr(argv[i], '=') == NULL)
            st = HN_FAIL(HN_ERR_ARG, "config: '%s': not a line of the form name=value", argv[i]);
    if (st == HN_OK) st = hn_options_parse(c->row, n_rows, argc, argv, &c->config, &c->store);
    hn_free(argv);
    return st == HN_OK ? hn_fed_check_options(&c->config, c->store) : st;
}

/* With payload sparse once the ids are there. */
static hn_status open_client(hone_client *c)
{
    const hn_images *eval = c->setup.eval ? hn_image_set_view(c->setup.eval) : NULL;
    HN_TRY(hn_fed_client_new(&c->setup.sim, eval, &c->client));
    HN_TRY(hn_fed_setup_layout(&c->setup, c->client, &c->layout));
    const bool keeps = hn_fed_setup_encoding(&c->config) != HN_FED_F32 && c->config.feedback;
    c->model = hn_malloc((size_t)c->layout.n * sizeof *c->model);
    c->value = hn_malloc((size_t)c->layout.n * sizeof *c->value);
    if (keeps) c->residual = hn_calloc((size_t)c->layout.values, sizeof *c->residual);
    if (c->model == NULL || c->value == NULL || (keeps && c->residual == NULL))
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of a client", c->layout.n);
    return HN_OK;
}

/* Which blocks is the server's business, and comes as a message. */
static hn_status check_blocks(const hone_client *c)
{
    static const char *const names[] = {"sparse-block",     "sparse-budget",  "sparse-score",
                                        "sparse-lift-rank", "sparse-targets", "sparse-mask"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (hn_options_given(c->store, names[i]))
            return HN_FAIL(HN_ERR_ARG, "config: %s: the server chooses the blocks", names[i]);
    return HN_OK;
}

static bool has_blocks(const hone_client *c) { return strcmp(c->config.payload, "sparse") == 0; }

static hn_status open_setup(hone_client *c)
{
    const hn_log log = {say, c};
    HN_TRY(check_blocks(c));
    HN_TRY(hn_fed_setup_open(&c->config, &log, &c->setup));
    return has_blocks(c) ? HN_OK : open_client(c);
}

static hn_status load(const hone_client_options *o, hone_client **out)
{
    if (o == NULL || out == NULL || o->size < sizeof *o || o->config == NULL || o->client < 0)
        return HN_FAIL(HN_ERR_ARG, "hone_client_load: size, config or client is missing");
    hone_client *c = hn_calloc(1, sizeof *c);
    char *text = hn_strdup(o->config);
    hn_status st = c && text ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a client");
    if (st == HN_OK) {
        c->number = o->client;
        c->round = -1;
        c->log = o->log;
        c->context = o->context;
        st = parse(c, text);
    }
    if (st == HN_OK) st = open_setup(c);
    hn_free(text);
    if (st == HN_OK)
        *out = c;
    else
        hone_client_free(c);
    return st;
}

int hone_client_load(const hone_client_options *o, hone_client **out)
{
    return code_of(load(o, out));
}

int64_t hone_client_images(const hone_client *c) { return c->setup.sim.images->count; }
int64_t hone_client_values(const hone_client *c) { return c->layout.n; }
int64_t hone_client_round(const hone_client *c) { return c->round; }

/* ---- a round ---- */

/* A client that cannot be opened with these ids is as it was. */
static hn_status take_blocks(hone_client *c, const void *message, size_t n_bytes)
{
    HN_TRY(hn_fed_setup_take(&c->setup, message, n_bytes));
    const hn_status st = open_client(c);
    if (st == HN_OK) return HN_OK;
    close_client(c);
    hn_fed_support_free(&c->setup.support);
    return st;
}

static hn_status set_payload(hone_client *c, const void *message, size_t n_bytes)
{
    hn_fed_head head;
    if (hn_fed_is_support(message, n_bytes)) return take_blocks(c, message, n_bytes);
    if (c->client == NULL)
        return HN_FAIL(HN_ERR_ARG, "a model, but the ids of its blocks come first");
    HN_TRY(
        hn_fed_decode(&c->layout, message, n_bytes, HN_FED_MODEL, -1, NULL, &head, c->value, NULL));
    if (head.round <= c->round)
        return HN_FAIL(HN_ERR_ARG, "a model of round %" PRId64 ", the client is in round %" PRId64,
                       head.round, c->round);
    c->at = EMPTY; /* values that have been set in part are never sent */
    HN_TRY(hn_fed_client_set(c->client, c->value));
    float *const model = c->value;
    c->value = c->model;
    c->model = model;
    c->round = head.round;
    c->at = SET;
    return HN_OK;
}

int hone_client_set_payload(hone_client *c, const void *message, size_t n_bytes)
{
    return code_of(set_payload(c, message, n_bytes));
}

static hn_fed_task task_of(const hone_client *c, const int32_t *index, int64_t most)
{
    const int64_t n = hone_client_images(c);
    const int64_t all = hn_fed_steps(&c->setup.sim.local, n, c->config.epochs);
    return (hn_fed_task){.client = c->number,
                         .index = index,
                         .n = n,
                         .steps = most > 0 && most < all ? most : all,
                         .lr = hn_fed_setup_lr(&c->config, c->round > 0 ? c->round : 1),
                         .seed = hn_fed_task_seed(c->setup.sim.seed, c->round, c->number)};
}

static hn_status train(hone_client *c, int64_t most, hn_fed_trained *t, int64_t *steps)
{
    const int64_t n = hone_client_images(c);
    if (c->at != SET)
        return HN_FAIL(HN_ERR_ARG, "%s: hone_client_set_payload comes first",
                       c->at == EMPTY ? "there is no model of a round"
                                      : "this round has been trained");
    if (most < 0) return HN_FAIL(HN_ERR_ARG, "%" PRId64 " steps", most);
    int32_t *index = hn_malloc((size_t)n * sizeof *index);
    if (index == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " numbers of images", n);
    for (int64_t i = 0; i < n; i++) index[i] = (int32_t)i;
    const hn_fed_task task = task_of(c, index, most);
    hn_status st = hn_fed_client_train(c->client, &task, t);
    hn_free(index);
    if (st != HN_OK) {
        if (hn_fed_client_set(c->client, c->model) != HN_OK) c->at = EMPTY;
        return st;
    }
    *steps = task.steps;
    c->loss = t->loss;
    c->at = TRAINED;
    return HN_OK;
}

int hone_client_train_round(hone_client *c, const hone_training *how, hone_trained *result)
{
    hn_fed_trained t;
    int64_t steps = 0;
    if ((how != NULL && how->size < sizeof *how) ||
        (result != NULL && result->size < sizeof *result))
        return code_of(HN_FAIL(HN_ERR_ARG, "hone_client_train_round: a struct without its size"));
    const hn_status st = train(c, how ? how->steps : 0, &t, &steps);
    if (st == HN_OK && result != NULL) {
        result->loss = (double)t.loss;
        result->seconds = t.seconds;
        result->steps = steps;
    }
    return code_of(st);
}

static hn_status encode(hone_client *c)
{
    const hn_fed_update u = {.client = c->number,
                             .round = c->round,
                             .samples = hone_client_images(c),
                             .loss = c->loss,
                             .value = c->value};
    const hn_fed_coding coding = {.encoding = hn_fed_setup_encoding(&c->config),
                                  .k = hn_fed_setup_topk(&c->config, &c->layout),
                                  .base = c->model,
                                  .residual = c->residual};
    if (c->at < TRAINED)
        return HN_FAIL(HN_ERR_ARG, "nothing was trained in this round that could be sent");
    if (c->at == ENCODED) return HN_OK; /* the residual has been brought up to it */
    HN_TRY(hn_fed_client_get(c->client, c->value));
    HN_TRY(hn_fed_encode_update(&c->layout, &u, &coding, &c->update));
    c->at = ENCODED;
    return HN_OK;
}

int hone_client_get_payload(hone_client *c, const void **message, size_t *n_bytes)
{
    const hn_status st = encode(c);
    if (st == HN_OK) {
        *message = c->update.data;
        *n_bytes = c->update.n;
    }
    return code_of(st);
}

int hone_client_evaluate(hone_client *c, hone_scores *out)
{
    hn_fed_scores s;
    if (out == NULL || out->size < sizeof *out)
        return code_of(HN_FAIL(HN_ERR_ARG, "hone_client_evaluate: a struct without its size"));
    if (c->client == NULL)
        return code_of(HN_FAIL(HN_ERR_ARG, "hone_client_evaluate: there are no ids of blocks"));
    const hn_status st = hn_fed_client_evaluate(c->client, &s);
    if (st == HN_OK) {
        out->accuracy = s.accuracy;
        out->loss = s.loss;
        out->images = s.rows;
    }
    return code_of(st);
}
