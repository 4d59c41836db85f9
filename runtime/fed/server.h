/* server.h - from the models of a round's clients to the next global model.
 *
 * Round     hn_fed_server_begin; hn_fed_server_add for every update that arrived, in any order (one
 *           that is refused is counted, the round goes on); hn_fed_server_finish.
 * Notation  theta_k, n_k, F_k: a client's parameters, samples, loss; m: the global model that was
 *           sent; a: the aggregate; theta: the next global model.
 * Average   a = sum_k n_k theta_k / sum_k n_k, summed in fp64 in ascending client number, rounded
 *           once to fp32 (never to -0). McMahan et al. 2017 (AISTATS), algorithm 1.
 * Roles     values get theta; buffers a, whatever the method; counters the largest of the clients'.
 * Bits      a function of the updates alone: not of threads nor of the order of arrival. What
 *           follows a is computed in fp64 from fp32 models, element by element, and rounded once.
 *
 * fedavg         theta = a
 * fedprox        theta = a; mu (theta - m) is the clients' business
 * fedavgm        v = beta1 v + (m - a); theta = m - rate v
 *                rate 1, beta1 0.9
 * fedadagrad     d = a - m; u = beta1 u + (1 - beta1) d; w = w + d^2;
 *                theta = m + rate u / (sqrt(w) + tau)
 *                rate 0.01, beta1 0, tau 1e-4
 * fedadam        the same with w = beta2 w + (1 - beta2) d^2
 *                rate 0.01, beta1 0.9, beta2 0.99, tau 1e-4
 * fedyogi        the same with w = w - (1 - beta2) d^2 sign(w - d^2)
 *                as fedadam; u of all three starts as 0, w as tau^2; no bias correction
 * median         of the theta_k, element by element, without weights; of an even number the mean
 *                of the middle two. Buffers too
 * trimmed-mean   mean of the K values of an element without the floor(trim K) smallest and as many
 *                largest, without weights. Buffers too
 *                trim 0.1
 * ema            theta = a, but hn_fed_server_result is E = ema E + (1 - ema) a; the first E is the
 *                first a. (Clients that go on from an average of m and a: fedref-v3 with lambda2 0
 *                and lambda1 = ema / (1 - ema).)
 *                ema 0.9
 *
 * FedRef keeps the last p aggregates, uncorrected: the reference of p of them, B_1 the oldest, is
 * R = sum_j c_j B_j / sum_j c_j with c_j = j (weights age) or 1 (uniform). R_old is that of the
 * aggregates before this round, R_new that with a in it. lambda2 of round r is
 * min(lambda2 growth^floor(r / every), cap). With too few aggregates before a (warm-up) theta = a.
 *
 * fedref-v3      theta = (a + lambda1 m + lambda2 R_old) / (1 + lambda1 + lambda2), from p
 *                aggregates on: the minimum of 1/2 |theta - a|^2 + lambda1/2 |theta - m|^2 +
 *                lambda2/2 |theta - R_old|^2. With `fisher` clients send a diagonal h_k;
 *                theta = (sum_k w_k h_k theta_k + lambda1 m + lambda2 R_old) /
 *                (sum_k w_k h_k + lambda1 + lambda2), w_k = n_k / sum n; a where that is 0 / 0;
 *                in the warm-up, too, with both lambdas 0
 *                p 3, lambda1 0, lambda2 0.01, growth 10, every 10, cap 0.3, age
 * fedref-v2      theta = a - 2 rate [lambda1 (a - a_prev) + lambda2 c (R_new - R_old)], c the share
 *                of a in R_new, a_prev the aggregate before; from p aggregates on
 *                rate 1, else as fedref-v3
 * fedref-v1      as released, for fidelity: every tensor l loses one number,
 *                theta_l = a_l - rate s_l, with 2-norms
 *                s_l = dF + lambda1 |a_l - a_prev,l| + lambda2 |R_new,l - B(R_old,l)|,
 *                from p + 1 aggregates on. dF (`loss_term`): mean_k F_k less that of
 *                the round before. Weights slot: aggregate i, from 0, lies in slot i mod p of the
 *                ring and c is that slot + 1, whatever its age. B (`first_axis_bug`): the sum over
 *                the first axis, broadcast; without the bug B(R) = R
 *                p 3, lambda1 1e-3, lambda2 1e-6, growth 10, every 10, cap 0.005, slot, both flags
 *                on, rate 1e-6: the clients' learning rate is meant
 *
 * Sources   fedprox: Li et al. 2020 (MLSys); fedavgm: Hsu, Qi and Brown 2019; the adaptive ones:
 *           Reddi et al. 2021 (ICLR), algorithm 2, d weighted by samples; median, trimmed-mean: Yin
 *           et al. 2018 (ICML), options I and II; fedref: arXiv 2506.23210 and its code, as
 *           spec/fedref.md 3 and 11 read them (V1 released, V2 written gradient, V3 MAP)
 * Memory    global, a, and the method's own: 1 model (fedavgm, ema), 2 (adaptive ones), p (fedref).
 *           Updates are borrowed: their pointers stay valid until finish.
 */
#ifndef HN_FED_SERVER_H
#define HN_FED_SERVER_H
#include <stdbool.h>
#include <stdint.h>

#include "runtime/fed/message.h"
#include "runtime/file/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Which of the options a method reads. */
enum {
    HN_FED_USES_RATE = 1,
    HN_FED_USES_BETA1 = 2,
    HN_FED_USES_BETA2 = 4,
    HN_FED_USES_TAU = 8,
    HN_FED_USES_TRIM = 16,
    HN_FED_USES_EMA = 32,
    HN_FED_USES_REFERENCE = 64, /* p, lambda1, lambda2, growth, every, cap, weights */
    HN_FED_USES_FISHER = 128,
    HN_FED_USES_V1 = 256 /* loss_term, first_axis_bug, weights slot */
};

/* clang-format off */
#define HN_FED_METHOD_LIST(X)                                                             \
    X(FEDAVG,       "fedavg",       0)                                                    \
    X(FEDPROX,      "fedprox",      0)                                                    \
    X(FEDAVGM,      "fedavgm",      HN_FED_USES_RATE | HN_FED_USES_BETA1)                 \
    X(FEDADAGRAD,   "fedadagrad",   HN_FED_USES_RATE | HN_FED_USES_BETA1 | HN_FED_USES_TAU) \
    X(FEDADAM,      "fedadam",      HN_FED_USES_RATE | HN_FED_USES_BETA1 |                \
                                    HN_FED_USES_BETA2 | HN_FED_USES_TAU)                  \
    X(FEDYOGI,      "fedyogi",      HN_FED_USES_RATE | HN_FED_USES_BETA1 |                \
                                    HN_FED_USES_BETA2 | HN_FED_USES_TAU)                  \
    X(MEDIAN,       "median",       0)                                                    \
    X(TRIMMED_MEAN, "trimmed-mean", HN_FED_USES_TRIM)                                     \
    X(EMA,          "ema",          HN_FED_USES_EMA)                                      \
    X(FEDREF_V1,    "fedref-v1",    HN_FED_USES_RATE | HN_FED_USES_REFERENCE | HN_FED_USES_V1) \
    X(FEDREF_V2,    "fedref-v2",    HN_FED_USES_RATE | HN_FED_USES_REFERENCE)             \
    X(FEDREF_V3,    "fedref-v3",    HN_FED_USES_REFERENCE | HN_FED_USES_FISHER)

typedef enum {
#define X(id, name, uses) HN_FED_##id,
    HN_FED_METHOD_LIST(X)
#undef X
    HN_FED_METHOD_COUNT
} hn_fed_method;
/* clang-format on */

typedef enum { HN_FED_WEIGHTS_AGE, HN_FED_WEIGHTS_UNIFORM, HN_FED_WEIGHTS_SLOT } hn_fed_weights;

const char *hn_fed_method_name(hn_fed_method m);   /* "fedref-v3"; "?" when out of range */
unsigned hn_fed_method_uses(hn_fed_method m);      /* HN_FED_USES_*, joined */
const char *hn_fed_weights_name(hn_fed_weights w); /* "age", "uniform", "slot" */

typedef struct {
    hn_fed_method method;
    int64_t quorum; /* updates that a round needs, at least 1 */
    double rate, beta1, beta2, tau, trim, ema;
    int64_t p; /* aggregates in the reference, 1 .. 64 */
    double lambda1, lambda2;
    double growth; /* at least 1; 1: lambda2 stays as it is, whatever the cap */
    int64_t every; /* rounds from growth to growth */
    double cap;    /* at least lambda2 where it grows */
    hn_fed_weights weights;
    bool fisher, loss_term, first_axis_bug;
} hn_fed_server_options;

/* The defaults of a method as listed above, quorum 1; what the method does not read is 0. */
hn_fed_server_options hn_fed_server_defaults(hn_fed_method m);

typedef struct {
    int64_t round;
    int64_t used, rejected; /* updates */
    bool changed;           /* false: fewer than the quorum, everything stayed as it was */
    bool corrected;         /* the method did something else than average; false in a warm-up */
    int64_t samples;        /* sum n_k */
    double loss;            /* sum n_k F_k / sum n_k */
    double lambda2;         /* of this round; 0 where the method has none */
    double update_norm;     /* |a - m|, over the values; 2-norm in fp64 */
    double correction_norm; /* |theta - a|, over the values */
} hn_fed_round_report;

typedef struct hn_fed_server hn_fed_server;

/* l        borrowed as long as the server lives
 * start    in [n of l], copied: the global model before round 1
 * Errors   HN_ERR_ARG naming the option and its range; HN_ERR_NUMERIC: start is not finite;
 *          HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_fed_server_new(const hn_fed_layout *l, const hn_fed_server_options *o,
                                         const float *start, hn_fed_server **out);
void hn_fed_server_free(hn_fed_server *s); /* accepts NULL */

/* Bytes of host memory that such a server holds between rounds. */
int64_t hn_fed_server_bytes(const hn_fed_layout *l, const hn_fed_server_options *o);

/* Rounds start at 1 and rise; what an unfinished round was given is forgotten.
 * Errors   HN_ERR_ARG: a round not above the last finished one */
HN_NODISCARD hn_status hn_fed_server_begin(hn_fed_server *s, int64_t round);
/* Errors   naming client and reason; nothing of the update is used, `rejected` counts it.
 *          HN_ERR_ARG: another round, a second update of a client, numbers out of range, a Fisher
 *          diagonal missing or not wanted; HN_ERR_NUMERIC: NaN or infinity in loss, values
 *          (tensor, index) or Fisher, a negative Fisher element; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_fed_server_add(hn_fed_server *s, const hn_fed_update *u);
/* Counts an update that was refused before it came here (a damaged message). */
void hn_fed_server_reject(hn_fed_server *s);
/* Forgets what an unfinished round was given: the server is as behind the last finished one. */
void hn_fed_server_cancel(hn_fed_server *s);
/* Ends the round. After an error the server can only be freed; what was saved is what goes on.
 * report   out, may be NULL
 * Errors   HN_ERR_ARG: no round was begun; HN_ERR_NUMERIC: the new model or what the method
 *          remembers is not finite (tensor and index); HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_fed_server_finish(hn_fed_server *s, hn_fed_round_report *report);

/* [n of the layout], valid until the next finish: what clients are sent, and the model that is
 * evaluated and kept (another one with ema only). */
const float *hn_fed_server_values(const hn_fed_server *s);
const float *hn_fed_server_result(const hn_fed_server *s);
int64_t hn_fed_server_round(const hn_fed_server *s); /* last finished one; 0: none */
/* lambda2 of a round; 0 for a method without. */
double hn_fed_server_lambda2(const hn_fed_server_options *o, int64_t round);

/* Writes fed_server.safetensors and fed_server.json into a checkpoint that is being made, beside
 * whatever else the caller puts there: it is complete with hn_ckpt_commit or does not count.
 * Errors   HN_ERR_ARG inside a round (between begin and finish) */
HN_NODISCARD hn_status hn_fed_server_save(const hn_fed_server *s, hn_ckpt *c);
/* A server that goes on with the same bits. l and o are those it was made with.
 * dir      folder of a checkpoint; it is verified first
 * Errors   those of hn_ckpt_verify and hn_fed_server_new; HN_ERR_FORMAT: not such a state, a tensor
 *          missing, not finite; HN_ERR_ARG naming the option: saved with another one; HN_ERR_SHAPE:
 *          saved with another layout */
HN_NODISCARD hn_status hn_fed_server_load(const hn_fed_layout *l, const hn_fed_server_options *o,
                                          const char *dir, hn_fed_server **out);

#ifdef __cplusplus
}
#endif
#endif
