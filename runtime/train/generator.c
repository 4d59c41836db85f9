#include "runtime/train/generator.h"

#include <inttypes.h>
#include <stdio.h>

#include "runtime/base/alloc.h"
#include "runtime/base/convert.h"
#include "runtime/graph/plan.h"
#include "runtime/graph/run.h"

struct hn_generator {
    hn_generator_options o;
    int64_t bucket, capacity; /* prompt tokens of one prefill; cache rows */
    hn_program *program;
    hn_params *params;
    hn_llama_tables tables;
    hn_llama_cache *cache; /* [layers] */
    hn_tensor *step;
    hn_tensor *prompt, *prompt_positions, *prompt_offsets, *prompt_at;
    hn_tensor *token, *position, *logits;
    hn_graph *settle, *prefill, *decode; /* settle: NULL where nothing is to be made once */
    bool settled;
    float *logits_f32; /* [vocab] */
    int32_t *host;     /* memory that copies to and from the device run over: ints, then logits */
    int64_t n;         /* tokens in the cache */
};

void hn_generator_free(hn_generator *g)
{
    if (g == NULL) return;
    if (g->host) hn_device_release_host(hn_program_device(g->program), g->host);
    hn_params_free(g->params);
    hn_program_free(g->program);
    hn_free(g->cache);
    hn_free(g->logits_f32);
    hn_free(g);
}

hn_params *hn_generator_params(const hn_generator *g) { return g->params; }

static hn_status vector(hn_generator *g, const char *name, hn_dtype dtype, int64_t n,
                        hn_tensor **out)
{
    const hn_type type = hn_type_1d(dtype, n);
    return hn_program_tensor(g->program, HN_MEM_INPUT, name, &type, out);
}

static hn_status make_cache(hn_generator *g)
{
    const hn_decoder *c = g->o.decoder;
    const hn_type type = {
        .dtype = g->o.dtype, .ndim = 3, .dim = {1, g->capacity, c->kv_heads * c->head_dim}};
    g->cache = hn_calloc((size_t)c->layers, sizeof *g->cache);
    if (g->cache == NULL) return HN_FAIL(HN_ERR_MEMORY, "table of the key/value cache");
    for (int64_t i = 0; i < c->layers; i++) {
        char name[64];
        snprintf(name, sizeof name, "cache.%" PRId64 ".k", i);
        HN_TRY(hn_program_tensor(g->program, HN_MEM_CACHE, name, &type, &g->cache[i].k));
        snprintf(name, sizeof name, "cache.%" PRId64 ".v", i);
        HN_TRY(hn_program_tensor(g->program, HN_MEM_CACHE, name, &type, &g->cache[i].v));
    }
    return HN_OK;
}

static hn_status record_graphs(hn_generator *g)
{
    hn_decoder_build b = {
        .decoder = g->o.decoder, .params = g->params, .tables = &g->tables, .cache = g->cache};
    if (hn_params_have_magnitudes(g->params)) {
        HN_TRY(hn_graph_new(g->program, "settle", false, &g->settle));
        HN_TRY(hn_params_settle(g->params, g->settle));
    }
    if (g->bucket > 0) {
        HN_TRY(vector(g, "prompt", HN_I32, g->bucket, &g->prompt));
        HN_TRY(vector(g, "prompt.positions", HN_I32, g->bucket, &g->prompt_positions));
        HN_TRY(vector(g, "prompt.offsets", HN_I32, 2, &g->prompt_offsets));
        HN_TRY(vector(g, "prompt.at", HN_I32, 1, &g->prompt_at));
        const hn_llama_input in = {g->prompt, g->prompt_positions, g->prompt_offsets, g->prompt_at};
        HN_TRY(hn_graph_new(g->program, "prefill", false, &g->prefill));
        HN_TRY(hn_decoder_hidden(&b, g->prefill, &in, NULL));
    }
    HN_TRY(vector(g, "token", HN_I32, 1, &g->token));
    HN_TRY(vector(g, "position", HN_I32, 1, &g->position));
    const hn_llama_input in = {g->token, g->position, NULL, g->position};
    hn_tensor *hidden;
    b.decode = true;
    HN_TRY(hn_graph_new(g->program, "decode", false, &g->decode));
    HN_TRY(hn_decoder_hidden(&b, g->decode, &in, &hidden));
    HN_TRY(hn_decoder_logits_of(&b, g->decode, hidden, &g->logits));
    hn_graph_keep(g->logits);
    return HN_OK;
}

static hn_status record(hn_generator *g)
{
    const hn_decoder *c = g->o.decoder;
    if (g->o.max_prompt < 1 || g->o.max_tokens < g->o.max_prompt)
        return HN_FAIL(HN_ERR_ARG, "a prompt of %" PRId64 " in a text of %" PRId64 " tokens",
                       g->o.max_prompt, g->o.max_tokens);
    if (g->o.max_tokens > c->max_positions)
        return HN_FAIL(HN_ERR_SHAPE,
                       "prompt and new tokens together are %" PRId64 ", the model has %" PRId64
                       " positions",
                       g->o.max_tokens, c->max_positions);
    if (g->o.max_prompt > 1)
        for (g->bucket = 1; g->bucket < g->o.max_prompt - 1;) g->bucket *= 2;
    g->capacity = g->o.max_tokens > g->bucket ? g->o.max_tokens : g->bucket;
    HN_TRY(hn_program_new(1, &g->program));
    HN_TRY(hn_params_new(g->o.adapt, &g->params));
    HN_TRY(hn_decoder_declare(c, g->params));
    const hn_params_options po = {.dtype = g->o.dtype,
                                  .fuse =
                                      hn_fuse_rule_of(g->o.dtype, g->o.executor != HN_EXECUTOR_CPU),
                                  .settled = true};
    HN_TRY(hn_params_create(g->params, g->program, &po));
    HN_TRY(hn_decoder_tables_new(c, g->program, g->capacity, &g->tables));
    HN_TRY(vector(g, "step block", HN_U8, sizeof(hn_step_block), &g->step));
    HN_TRY(make_cache(g));
    HN_TRY(record_graphs(g));
    g->logits_f32 = hn_malloc((size_t)c->vocab * sizeof(float));
    if (g->logits_f32 == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " logits", c->vocab);
    const hn_plan_options plan = {.device = g->o.device};
    return hn_plan_build(g->program, &plan);
}

hn_status hn_generator_new(const hn_generator_options *o, hn_generator **out)
{
    hn_generator *g = hn_calloc(1, sizeof *g);
    if (g == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a generator", sizeof *g);
    g->o = *o;
    hn_status st = hn_executor_choose(o->executor, o->device, &g->o.executor);
    if (st == HN_OK) st = record(g);
    if (st != HN_OK)
        hn_generator_free(g);
    else
        *out = g;
    return st;
}

static hn_status run(const hn_generator *g, const hn_graph *graph)
{
    const bool check = g->o.executor == HN_EXECUTOR_CHECK;
    const hn_run_options o = {.step = g->step->data, .check = check, .compare = check};
    return hn_graph_run(graph, &o);
}

static hn_status send(const hn_generator *g, const hn_tensor *t, const int32_t *from)
{
    return hn_device_send(hn_program_device(g->program), t->data, from, hn_type_bytes(&t->type));
}

/* On a GPU all graphs run once, so that all kernels are loaded, and two are captured. What that
 * leaves in the cache is overwritten. */
static hn_status warm_up(hn_generator *g)
{
    hn_graph *const graph[] = {g->prefill, g->decode, g->settle};
    if (g->o.executor == HN_EXECUTOR_CPU) return HN_OK;
    for (int i = 0; i < 3; i++)
        if (graph[i]) HN_TRY(run(g, graph[i]));
    HN_TRY(hn_device_wait(hn_program_device(g->program)));
    for (int i = 0; g->o.executor == HN_EXECUTOR_GRAPH && i < 2; i++)
        if (graph[i]) HN_TRY(hn_graph_capture(graph[i], g->step->data));
    return HN_OK;
}

hn_status hn_generator_allocate(hn_generator *g)
{
    void *host = NULL;
    const size_t ints = (size_t)(2 * g->bucket + 5) * sizeof(int32_t);
    HN_TRY(hn_plan_allocate(g->program));
    HN_TRY(hn_device_alloc_host(hn_program_device(g->program),
                                ints + hn_type_bytes(&g->logits->type), &host));
    g->host = host;
    HN_TRY(hn_decoder_tables_fill(g->o.decoder, &g->tables));
    return warm_up(g);
}

hn_status hn_generator_next(hn_generator *g, int32_t id, const float **logits)
{
    hn_device *d = hn_program_device(g->program);
    int32_t *const host = g->host + 2 * g->bucket + 3; /* behind what a prefill may still read */
    void *const back = host + 2;
    if (g->n >= g->capacity)
        return HN_FAIL(HN_ERR_ARG, "the cache is full: %" PRId64 " tokens", g->capacity);
    host[0] = id;
    host[1] = (int32_t)g->n;
    HN_TRY(send(g, g->token, &host[0]));
    HN_TRY(send(g, g->position, &host[1]));
    HN_TRY(run(g, g->decode));
    HN_TRY(hn_device_fetch(d, back, g->logits->data, hn_type_bytes(&g->logits->type)));
    HN_TRY(hn_device_wait(d));
    g->n++;
    hn_to_f32(back, g->logits->type.dtype, 0, g->o.decoder->vocab, g->logits_f32);
    *logits = g->logits_f32;
    return HN_OK;
}

hn_status hn_generator_prompt(hn_generator *g, const int32_t *id, int64_t n, const float **logits)
{
    if (n < 1 || n > g->o.max_prompt)
        return HN_FAIL(HN_ERR_ARG, "a prompt of %" PRId64 " tokens, 1 to %" PRId64, n,
                       g->o.max_prompt);
    g->n = 0;
    if (g->settle != NULL && !g->settled) HN_TRY(run(g, g->settle));
    g->settled = true;
    if (n > 1) {
        int32_t *token = g->host, *position = token + g->bucket, *rest = position + g->bucket;
        for (int64_t i = 0; i < g->bucket; i++) {
            token[i] = i < n - 1 ? id[i] : 0; /* what padding leaves in the cache is overwritten */
            position[i] = (int32_t)(i < n - 1 ? i : 0);
        }
        rest[0] = 0; /* offsets, and the place in the cache */
        rest[1] = (int32_t)(n - 1);
        rest[2] = 0;
        HN_TRY(send(g, g->prompt, token));
        HN_TRY(send(g, g->prompt_positions, position));
        HN_TRY(send(g, g->prompt_offsets, rest));
        HN_TRY(send(g, g->prompt_at, rest + 2));
        HN_TRY(run(g, g->prefill));
        g->n = n - 1;
    }
    return hn_generator_next(g, id[n - 1], logits);
}
