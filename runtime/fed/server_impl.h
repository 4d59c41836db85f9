/* server_impl.h - inside of the server: what its files share.
 *
 * A round is one pass over the payload in chunks, each inside one tensor, on all threads: a chunk
 * reads the updates once, and its part of the models is still in the cache when the method corrects
 * it. fedref-v1 alone needs norms of whole tensors and has a second pass. */
#ifndef HN_FED_SERVER_IMPL_H
#define HN_FED_SERVER_IMPL_H
#include <jansson.h>

#include "runtime/fed/server.h"

enum { HN_FED_CHUNK = 2048, HN_FED_MAX_P = 64, HN_FED_STATES = 2 };

/* Elements payload[first .. first + n) of a tensor. */
typedef struct {
    int64_t tensor, first;
    int n;
} hn_fed_chunk;

struct hn_fed_server {
    const hn_fed_layout *l;
    hn_fed_server_options o;
    float *global; /* [n] what clients are sent */
    float *a;      /* [n] the aggregate of the round under way */
    /* fedavgm: v; adaptive: u, w; ema: E; else none */
    float *state[HN_FED_STATES];
    /* fedref: aggregate i, from 0, lies in ring[i mod p]; a changes places with the oldest */
    float *ring[HN_FED_MAX_P];
    int64_t aggregates;    /* so far */
    int64_t round;         /* the last finished one */
    int64_t open;          /* the one under way, or 0 */
    int64_t rejected;      /* of it */
    double mean_loss;      /* of the clients of the last round that counted */
    hn_fed_update *update; /* of the round under way, clients ascending */
    int64_t n_updates, cap;
    hn_fed_chunk *chunk;
    int64_t n_chunks;
    double *part; /* [n_chunks, 2]: squares of a - m and of theta - a */
};

/* Models beside global and a: in `state`, in `ring`. */
int hn_fed_states(hn_fed_method m);
int64_t hn_fed_ring(const hn_fed_server_options *o);

/* What the chunks of a round share. */
typedef struct hn_fed_pass {
    hn_fed_server *s;
    double samples;          /* sum n_k */
    bool correct;            /* false: a warm-up, theta = a */
    double lambda1, lambda2; /* 0 in a warm-up */
    float *sorted;           /* threads x updates x HN_FED_SORT elements, where the method sorts */
    /* the reference before this round, oldest first, and the weights of its models, which sum to 1
     * together: in R_old, and in R_new, where the first one has left and a has come */
    const float *old[HN_FED_MAX_P];
    double c_old[HN_FED_MAX_P], c_new[HN_FED_MAX_P], c_a;
    double d_loss; /* fedref-v1: dF */
} hn_fed_pass;

/* Sums that a chunk gives to its correction. */
typedef struct {
    double mean[HN_FED_CHUNK]; /* of theta_k, weighted, not yet rounded */
    double fisher[HN_FED_CHUNK], fisher_theta[HN_FED_CHUNK]; /* sum n_k h_k, sum n_k h_k theta_k */
} hn_fed_sums;

/* server_average.c: a of a chunk, from the updates. */
enum { HN_FED_SORT = 256 };
void hn_fed_average(const hn_fed_pass *p, const hn_fed_chunk *c, hn_fed_sums *sums);
/* Sums of a Fisher diagonal; value: place of the chunk among all values. */
void hn_fed_average_fisher(const hn_fed_pass *p, const hn_fed_chunk *c, int64_t value,
                           hn_fed_sums *sums);

/* server_momentum.c, server_fedref.c: theta of a chunk of values into global, from a. */
void hn_fed_momentum(const hn_fed_pass *p, const hn_fed_chunk *c);
void hn_fed_adaptive(const hn_fed_pass *p, const hn_fed_chunk *c);
void hn_fed_ref_v2(const hn_fed_pass *p, const hn_fed_chunk *c);
void hn_fed_ref_v3(const hn_fed_pass *p, const hn_fed_chunk *c, const hn_fed_sums *sums);
/* Models and weights of the references; whether there are enough of them to correct. */
void hn_fed_ref_begin(hn_fed_pass *p);
/* theta of all values, tensor by tensor. */
HN_NODISCARD hn_status hn_fed_ref_v1(const hn_fed_pass *p);

/* server_options.c: the options as a table, for checks and records. */
HN_NODISCARD hn_status hn_fed_options_check(const hn_fed_server_options *o);
HN_NODISCARD hn_status hn_fed_options_write(const hn_fed_server_options *o, json_t *to);
/* Every option is the one that was saved. */
HN_NODISCARD hn_status hn_fed_options_same(const hn_fed_server_options *o, const json_t *saved,
                                           const char *where);
#endif
