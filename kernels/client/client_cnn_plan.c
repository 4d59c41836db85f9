#include "kernels/client/client_cnn_plan.h"

#include <inttypes.h>

hn_client_cnn_step hn_client_cnn_step_of(const hn_client_cnn_net *net, int64_t l)
{
    hn_client_cnn_step s = {.h = net->height, .w = net->width, .out_c = net->channels};
    for (int64_t i = 0; i <= l; i++) {
        s = (hn_client_cnn_step){s.h, s.w, s.out_c, net->filters[i], 0, 0};
        s.h = (s.in_h + 2 * net->pad - net->kernel + 1) / 2;
        s.w = (s.in_w + 2 * net->pad - net->kernel + 1) / 2;
    }
    return s;
}

int64_t hn_client_cnn_features(const hn_client_cnn_net *net)
{
    const hn_client_cnn_step s = hn_client_cnn_step_of(net, net->steps - 1);
    return s.h * s.w * s.out_c;
}

static int64_t filter_size(const hn_client_cnn_net *net, const hn_client_cnn_step *s)
{
    return s->out_c * net->kernel * net->kernel * s->in_c;
}

int64_t hn_client_cnn_layout(const hn_client_cnn_net *net, hn_client_cnn_at *at)
{
    int64_t n = 0;
    *at = (hn_client_cnn_at){0};
    for (int64_t l = 0; l < net->steps; l++) {
        const hn_client_cnn_step s = hn_client_cnn_step_of(net, l);
        at->conv_w[l] = n;
        at->conv_b[l] = n += filter_size(net, &s);
        n += s.out_c;
    }
    at->fc1_w = n;
    at->fc1_b = n += net->hidden * hn_client_cnn_features(net);
    at->fc2_w = n += net->hidden;
    at->fc2_b = n += net->classes * net->hidden;
    return n + net->classes;
}

/* Where a piece of n floats begins. */
static int64_t take(int64_t *end, int64_t n)
{
    const int64_t at = *end;
    *end += (n + 3) / 4 * 4;
    return at;
}

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* The part that does not depend on the images at a time. */
static void place_whole(const hn_client_cnn_net *net, int64_t batch, hn_client_cnn_plan *p,
                        int64_t *end)
{
    const int64_t features = hn_client_cnn_features(net);
    int64_t scratch = (net->hidden + net->classes) * HN_CLIENT_LD;
    for (int64_t l = 0; l < net->steps; l++) {
        const hn_client_cnn_step s = hn_client_cnn_step_of(net, l);
        p->conv_w[l] = take(end, filter_size(net, &s));
        p->conv_b[l] = take(end, s.out_c);
        scratch = most(scratch, filter_size(net, &s) + s.out_c);
    }
    p->fc1_w = take(end, net->hidden * features);
    p->fc1_b = take(end, net->hidden);
    p->fc2_w = take(end, net->classes * net->hidden);
    p->fc2_b = take(end, net->classes);
    p->features = take(end, batch * features);
    for (int64_t l = 0; l < net->steps; l++) {
        const hn_client_cnn_step s = hn_client_cnn_step_of(net, l);
        p->grad[l] = take(end, filter_size(net, &s) + s.out_c);
    }
    p->grad_end = *end;
    p->scratch = take(end, scratch);
    p->scratch_end = *end;
    p->rows = take(end, HN_CLIENT_ROW_WORDS);
}

static void place_chunk(const hn_client_cnn_net *net, int64_t batch, int64_t chunk,
                        hn_client_cnn_plan *p, int64_t *end)
{
    const int64_t pixels = net->height * net->width * net->channels;
    p->chunk = chunk;
    p->bytes = take(end, (chunk * pixels + 3) / 4);
    p->pixels = take(end, chunk * pixels);
    for (int64_t l = 0; l < net->steps; l++) {
        const hn_client_cnn_step s = hn_client_cnn_step_of(net, l);
        const int64_t quads = s.h * s.w * s.out_c / 4; /* of an image */
        const int last = l == net->steps - 1;
        p->choice[l] = take(end, ((last ? batch : chunk) * quads + 3) / 4);
        p->map[l] = last ? p->features : take(end, 4 * chunk * quads);
        p->alive[l] = last ? 0 : take(end, (chunk * quads + 3) / 4);
    }
}

/* Rounds of the threads, weighed by the products of each. */
static int64_t cost(const hn_client_cnn_net *net, int64_t images)
{
    int64_t sum = 0;
    for (int64_t l = 0; l < net->steps && images > 0; l++) {
        const hn_client_cnn_step s = hn_client_cnn_step_of(net, l);
        const int64_t tasks = images * s.h * s.w * s.out_c / 4;
        sum += (tasks + HN_CLIENT_THREADS - 1) / HN_CLIENT_THREADS * s.in_c;
    }
    return sum;
}

hn_client_cnn_plan hn_client_cnn_plan_of(const hn_client_cnn_net *net, int64_t batch, size_t limit)
{
    hn_client_cnn_plan whole = {0}, best = {0};
    int64_t whole_end = 0, least = INT64_MAX;
    place_whole(net, batch, &whole, &whole_end);
    for (int64_t chunk = 1; chunk <= batch; chunk++) {
        hn_client_cnn_plan p = whole;
        int64_t end = whole_end;
        place_chunk(net, batch, chunk, &p, &end);
        p.n_bytes = (size_t)end * sizeof(float);
        if (chunk > 1 && p.n_bytes > limit) break;
        const int64_t c = batch / chunk * cost(net, chunk) + cost(net, batch % chunk);
        if (c < least) {
            least = c;
            best = p;
        }
    }
    return best;
}

size_t hn_client_cnn_bytes(const hn_client_cnn_net *net, int64_t batch)
{
    return hn_client_cnn_plan_of(net, batch, 0).n_bytes;
}

hn_status hn_client_cnn_fits(const hn_client_cnn_net *net, int64_t batch, size_t limit)
{
    if (batch < 1 || batch > HN_CLIENT_CNN_BATCH)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "client_cnn: clients with batches of %" PRId64 " images, 1 to %d", batch,
                       (int)HN_CLIENT_CNN_BATCH);
    const size_t n_bytes = hn_client_cnn_bytes(net, batch);
    if (n_bytes <= limit) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "client_cnn: a client with batches of %" PRId64
                   " needs %zu bytes of shared memory, a block has %zu",
                   batch, n_bytes, limit);
}
