/* Each client is a block of one launch. */
#include "runtime/train/client_block.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "kernels/client/client_cnn.h"
#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"

enum {
    SHARED_BYTES = 232448, /* of a block on the GPUs that have most: sm_90 */
    PARTS = 4 /* of a group's results: those that have come are handed over while others come */
};

/* An array of the host and its copy on the device: what a launch reads or writes. */
typedef struct {
    void *host, *device;
    size_t bytes;
} pair;

typedef struct {
    hn_fed_sim sim;
    hn_fed_sim_options o;
    bool gpu;
    hn_params *params; /* declared only: names and orders */
    hn_client_cnn_args args;
    void *images, *labels;   /* on a GPU */
    int32_t *place;          /* [n]: where in a client's values element i of the payload lies */
    int64_t together;        /* results that are put in order and handed over at a time */
    float *value;            /* [together][n] */
    hn_fed_trained *trained; /* [together] */
    int64_t steps;           /* that there is room for */
    pair start, values, rows, client_steps, loss_from, lr, loss, status;
    hn_device_fence *there[PARTS]; /* behind the values of a part */
} blocks;

/* Of the n tasks of a group. */
static int64_t part_tasks(int64_t n) { return (n + PARTS - 1) / PARTS; }

/* ---- memory ---- */

static void pair_free(blocks *b, pair *p)
{
    if (p->host) hn_device_release_host(b->o.device, p->host);
    if (b->gpu && p->device) hn_device_release(b->o.device, p->device);
    *p = (pair){0};
}

/* On the CPU both are one. */
static hn_status pair_new(blocks *b, pair *p, size_t bytes)
{
    pair_free(b, p);
    p->bytes = bytes;
    HN_TRY(hn_device_alloc_host(b->o.device, bytes, &p->host));
    p->device = p->host;
    if (!b->gpu) return HN_OK;
    p->device = NULL;
    return hn_device_alloc(b->o.device, bytes, &p->device);
}

static hn_status pair_send(blocks *b, const pair *p)
{
    return b->gpu ? hn_device_send(b->o.device, p->device, p->host, p->bytes) : HN_OK;
}

/* The part of n tasks, of an array that has one for each of a group. */
static size_t part_of(const blocks *b, const pair *p, int64_t n)
{
    return p->bytes / (size_t)b->o.at_once * (size_t)n;
}

static hn_status send_part(blocks *b, const pair *p, int64_t n)
{
    return b->gpu ? hn_device_send(b->o.device, p->device, p->host, part_of(b, p, n)) : HN_OK;
}

/* Of tasks first .. first + n - 1. */
static hn_status fetch_part(blocks *b, const pair *p, int64_t first, int64_t n)
{
    const size_t from = part_of(b, p, first);
    return hn_device_fetch(b->o.device, (char *)p->host + from, (const char *)p->device + from,
                           part_of(b, p, n));
}

static void free_blocks(hn_fed_sim *s)
{
    blocks *b = (blocks *)s;
    pair *const all[] = {&b->start,     &b->values, &b->rows, &b->client_steps,
                         &b->loss_from, &b->lr,     &b->loss, &b->status};
    if (b->gpu) (void)!hn_device_wait(b->o.device); /* nothing may be on its way */
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) pair_free(b, all[i]);
    for (int k = 0; k < PARTS; k++) hn_device_fence_free(b->there[k]);
    if (b->images) hn_device_release(b->o.device, b->images);
    if (b->labels) hn_device_release(b->o.device, b->labels);
    hn_params_free(b->params);
    hn_free(b->place);
    hn_free(b->value);
    hn_free(b->trained);
    hn_free(b);
}

/* ---- what it can do ---- */

static hn_status refuse(const char *what)
{
    return HN_FAIL(HN_ERR_UNSUPPORTED, "clients as blocks: %s; clients one by one, or as replicas",
                   what);
}

static hn_status check_local(const hn_fed_local *l)
{
    const hn_optimizer *p = &l->optimizer;
    const hn_augment *a = &l->augment;
    HN_TRY(hn_fed_check_dense(l, "blocks"));
    if (p->kind != HN_OPTIMIZER_SGD || p->momentum != 0) return refuse("only plain SGD");
    if (p->weight_decay != 0) return refuse("no weight decay");
    if (p->max_grad_norm != 0) return refuse("no clipping");
    if (l->smoothing != 0) return refuse("no smoothing of labels");
    if (a->pad > 0 || a->flip > 0 || a->resized) return refuse("no augmentation");
    return HN_OK;
}

static hn_status check(const hn_fed_sim_options *o)
{
    const hn_vision_config *v = &o->model->vision;
    if (o->at_once < 1) return HN_FAIL(HN_ERR_ARG, "%" PRId64 " clients at once", o->at_once);
    if (o->images == NULL) return HN_FAIL(HN_ERR_ARG, "clients without images to train on");
    HN_TRY(hn_fed_check_images(o, o->images));
    if (v->family != HN_VISION_CNN) return refuse("only networks of the family cnn");
    if (o->model->dtype != HN_F32) return refuse("only fp32");
    if (o->executor == HN_EXECUTOR_CHECK) return refuse("no --executor cuda-check");
    if (hn_device_kind_of(o->device) == HN_DEVICE_CUDA && hn_fed_streams(o, o->images))
        return refuse("no images beside a GPU's memory, and there are more than --resident GiB");
    if (o->images->h != v->image || o->images->w != v->image || o->images->c != v->channels)
        return HN_FAIL(HN_ERR_SHAPE, "%s: images of another size or other channels",
                       v->architecture);
    return check_local(&o->local);
}

static hn_client_cnn_net net_of(const hn_vision_config *v)
{
    hn_client_cnn_net net = {.height = v->image,
                             .width = v->image,
                             .channels = v->channels,
                             .steps = v->cnn.steps,
                             .kernel = v->cnn.kernel,
                             .pad = v->cnn.pad,
                             .hidden = v->cnn.hidden,
                             .classes = v->classes};
    for (int64_t l = 0; l < v->cnn.steps; l++) net.filters[l] = v->cnn.width[l];
    return net;
}

/* ---- opening ---- */

/* The kernel's tensors lie in the order of the parameters, each as hone stores it. */
static hn_status open_values(blocks *b)
{
    hn_client_cnn_args *a = &b->args;
    a->n = a->values_stride = hn_client_cnn_layout(&a->net, &a->at);
    b->sim.n_values = a->n;
    HN_TRY(hn_params_new(b->o.adapt, &b->params));
    HN_TRY(hn_vision_declare(&b->o.model->vision, b->params));
    if (hn_fed_values_count(&b->o.local, b->params) != a->n) return refuse("only --payload full");
    b->place = hn_calloc((size_t)a->n, sizeof *b->place);
    b->together = hn_fed_together(&b->o, a->n);
    if (b->together > part_tasks(b->o.at_once)) b->together = part_tasks(b->o.at_once);
    b->value = hn_calloc((size_t)(b->together * a->n), sizeof *b->value);
    b->trained = hn_calloc((size_t)b->together, sizeof *b->trained);
    if (b->place == NULL || b->value == NULL || b->trained == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of a client", a->n);
    int32_t first = 0;
    for (int64_t i = 0; i < hn_params_count(b->params); i++) {
        const hn_param *q = hn_params_at(b->params, i);
        const int32_t n = (int32_t)hn_param_values(q);
        for (int32_t k = 0; k < n; k++) b->place[first + hn_param_place(q, k)] = first + k;
        first += n;
    }
    HN_TRY(pair_new(b, &b->start, (size_t)a->n * sizeof(float)));
    return pair_new(b, &b->values, (size_t)(a->n * b->o.at_once) * sizeof(float));
}

static hn_status open_images(blocks *b)
{
    const hn_images *s = b->o.images;
    const size_t pixels = (size_t)(s->count * s->h * s->w * s->c);
    const size_t labels = (size_t)s->count * sizeof *s->label;
    b->args.images = s->pixel;
    b->args.labels = s->label;
    b->args.count = s->count;
    if (!b->gpu) return HN_OK;
    HN_TRY(hn_device_alloc(b->o.device, pixels, &b->images));
    HN_TRY(hn_device_alloc(b->o.device, labels, &b->labels));
    HN_TRY(hn_device_write(b->o.device, b->images, s->pixel, pixels));
    HN_TRY(hn_device_write(b->o.device, b->labels, s->label, labels));
    b->args.images = b->images;
    b->args.labels = b->labels;
    return HN_OK;
}

static hn_status open(blocks *b)
{
    const hn_vision_config *v = &b->o.model->vision;
    const size_t g = (size_t)b->o.at_once;
    HN_TRY(check(&b->o));
    b->args =
        (hn_client_cnn_args){.net = net_of(v), .batch = b->o.local.batch, .mu = b->o.local.mu};
    for (int64_t k = 0; k < v->channels; k++) {
        b->args.mean[k] = v->mean[k];
        b->args.std[k] = v->std[k];
    }
    HN_TRY(hn_client_cnn_check_net(&b->args.net));
    HN_TRY(hn_client_cnn_fits(&b->args.net, b->args.batch, SHARED_BYTES));
    HN_TRY(open_values(b));
    HN_TRY(pair_new(b, &b->client_steps, g * sizeof(int32_t)));
    HN_TRY(pair_new(b, &b->loss_from, g * sizeof(int32_t)));
    HN_TRY(pair_new(b, &b->loss, g * sizeof(float)));
    HN_TRY(pair_new(b, &b->status, g * sizeof(int32_t)));
    for (int k = 0; k < PARTS; k++) HN_TRY(hn_device_fence_new(b->o.device, &b->there[k]));
    return open_images(b);
}

/* ---- a group of tasks ---- */

/* Room for tasks of so many steps. */
static hn_status grow(blocks *b, int64_t steps)
{
    const size_t all = (size_t)(b->o.at_once * steps);
    if (steps <= b->steps) return HN_OK;
    b->steps = 0;
    HN_TRY(pair_new(b, &b->rows, all * (size_t)b->args.batch * sizeof(int32_t)));
    HN_TRY(pair_new(b, &b->lr, all * sizeof(float)));
    b->steps = steps;
    return HN_OK;
}

static hn_status fill(blocks *b, const hn_fed_task *task, int64_t n)
{
    const hn_fed_local *l = &b->o.local;
    int32_t *const rows = b->rows.host, *const steps = b->client_steps.host,
                   *const from = b->loss_from.host;
    float *const lr = b->lr.host;
#pragma omp parallel for schedule(dynamic)
    for (int64_t g = 0; g < n; g++) {
        const hn_fed_task *t = &task[g];
        const int64_t epoch = hn_fed_epoch_steps(l, t->n), first = g * b->steps;
        steps[g] = (int32_t)t->steps;
        from[g] = (int32_t)(t->steps > epoch ? t->steps - epoch : 0);
        for (int64_t s = 0; s < t->steps; s++) {
            lr[first + s] = (float)t->lr;
            (void)hn_fed_rows(l, t, s, rows + (first + s) * l->batch);
        }
    }
    HN_TRY(send_part(b, &b->rows, n));
    HN_TRY(send_part(b, &b->lr, n));
    HN_TRY(send_part(b, &b->client_steps, n));
    return send_part(b, &b->loss_from, n);
}

static hn_status fetch_results(blocks *b, int64_t n)
{
    const int64_t each = part_tasks(n);
    HN_TRY(fetch_part(b, &b->loss, 0, n));
    HN_TRY(fetch_part(b, &b->status, 0, n));
    for (int64_t first = 0; first < n; first += each) {
        HN_TRY(fetch_part(b, &b->values, first, n - first < each ? n - first : each));
        HN_TRY(hn_device_fence_here(b->there[first / each]));
    }
    return HN_OK;
}

/* Returns when the clients are done and their first part has come. */
static hn_status run(blocks *b, int64_t n)
{
    hn_client_cnn_args *a = &b->args;
    a->start = b->start.device;
    a->values = b->values.device;
    a->rows = b->rows.device;
    a->client_steps = b->client_steps.device;
    a->loss_from = b->loss_from.device;
    a->lr = b->lr.device;
    a->loss = b->loss.device;
    a->status = b->status.device;
    a->clients = n;
    a->steps = a->lr_stride = b->steps;
    if (!b->gpu) return hn_client_cnn_cpu(a);
    HN_TRY(hn_client_cnn_cuda(a, hn_device_stream(b->o.device)));
    HN_TRY(fetch_results(b, n));
    return hn_device_fence_wait(b->there[0]);
}

/* Client g of the group, in the order of files; value: its place. */
static hn_fed_trained result_of(const blocks *b, int64_t g, double seconds, float *value)
{
    const float *own = (const float *)b->values.host + g * b->args.n;
    const bool bad = ((const int32_t *)b->status.host)[g] != HN_CLIENT_DONE;
    for (int64_t i = 0; i < b->args.n; i++) value[i] = own[b->place[i]];
    return (hn_fed_trained){
        .value = value, .loss = bad ? NAN : ((const float *)b->loss.host)[g], .seconds = seconds};
}

/* Part by part: what a thread has put in order is still near it when it is prepared. */
static hn_status hand_over(blocks *b, int64_t first, int64_t n, double seconds, hn_fed_take take,
                           void *context)
{
    const int64_t each = part_tasks(n);
    int64_t some;
    for (int64_t g = 0; g < n; g += some) {
        const int64_t left = (g / each + 1) * each < n ? (g / each + 1) * each - g : n - g;
        some = left < b->together ? left : b->together;
        HN_TRY(hn_device_fence_wait(b->there[g / each]));
#pragma omp parallel for schedule(static)
        for (int64_t k = 0; k < some; k++)
            b->trained[k] = result_of(b, g + k, seconds, b->value + k * b->args.n);
        HN_TRY(hn_fed_hand_over(&b->sim, first + g, some, b->trained, take, context));
    }
    return HN_OK;
}

static hn_status group(blocks *b, const hn_fed_task *task, int64_t first, int64_t n,
                       hn_fed_take take, void *context)
{
    const int64_t begun = hn_clock_ns();
    int64_t most = 0;
    for (int64_t g = 0; g < n; g++) {
        HN_TRY(hn_fed_check_task(&b->o, &task[g]));
        if (task[g].steps > most) most = task[g].steps;
    }
    if (most > INT32_MAX) return HN_FAIL(HN_ERR_ARG, "%" PRId64 " steps of a client", most);
    HN_TRY(grow(b, most));
    HN_TRY(fill(b, task, n));
    HN_TRY(run(b, n));
    const double seconds = (double)(hn_clock_ns() - begun) * 1e-9 / (double)n;
    return hand_over(b, first, n, seconds, take, context);
}

static hn_status blocks_round(hn_fed_sim *s, const float *global, const hn_fed_task *task,
                              int64_t n, hn_fed_take take, void *context)
{
    blocks *b = (blocks *)s;
    float *const start = b->start.host;
    for (int64_t i = 0; i < b->args.n; i++) start[b->place[i]] = global[i];
    hn_status st = pair_send(b, &b->start);
    for (int64_t first = 0; first < n && st == HN_OK; first += b->o.at_once) {
        const int64_t left = n - first;
        if (first > 0) st = hn_fed_moved(s, context);
        if (st == HN_OK)
            st = group(b, task + first, first, left < b->o.at_once ? left : b->o.at_once, take,
                       context);
    }
    if (st != HN_OK) (void)!hn_device_wait(b->o.device); /* nothing may be on its way */
    return st;
}

hn_status hn_fed_blocks_new(const hn_fed_sim_options *o, hn_fed_sim **out)
{
    blocks *b = hn_calloc(1, sizeof *b);
    if (b == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a simulation", sizeof *b);
    b->sim = (hn_fed_sim){.round = blocks_round, .free = free_blocks};
    b->o = *o;
    b->gpu = hn_device_kind_of(o->device) == HN_DEVICE_CUDA;
    const hn_status st = open(b);
    if (st != HN_OK)
        free_blocks(&b->sim);
    else
        *out = &b->sim;
    return st;
}
