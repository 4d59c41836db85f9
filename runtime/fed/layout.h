/* layout.h - what travels between the server and its clients: one flat fp32 vector, the payload,
 * and which tensor lies where in it.
 *
 * Tensors lie end to end in the order in which they were added, row-major. Both sides build the
 * same layout; a message carries its digest, so that a payload never meets another layout.
 *
 * Roles   VALUE    trained: aggregated, then corrected by the server's method
 *         BUFFER   running mean and variance: aggregated, never corrected
 *         COUNTER  batches seen: the largest of the clients' (exact below 2^24)
 * Errors  HN_ERR_ARG: a name twice or empty, dimensions; HN_ERR_MEMORY
 */
#ifndef HN_FED_LAYOUT_H
#define HN_FED_LAYOUT_H
#include <stdint.h>

#include "runtime/base/arena.h"
#include "runtime/base/save.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_FED_MAX_DIMS = 6 };

typedef enum { HN_FED_VALUE, HN_FED_BUFFER, HN_FED_COUNTER } hn_fed_role;

typedef struct {
    const char *name;
    int ndim; /* 0: one element */
    int64_t dim[HN_FED_MAX_DIMS];
    int64_t first, n; /* payload[first .. first + n) */
    int64_t value;    /* VALUE: place of its first element among all values; else -1 */
    hn_fed_role role;
} hn_fed_tensor;

/* Zero before the first use. */
typedef struct {
    hn_arena names;
    hn_fed_tensor *tensor;
    int64_t count, cap;
    int64_t n;           /* elements of the payload */
    int64_t values;      /* of them, in tensors of role VALUE */
    const char *binding; /* NULL, or what else both sides must agree on */
} hn_fed_layout;

const char *hn_fed_role_name(hn_fed_role r); /* "value"; "?" when out of range */

/* One more tensor at the end; its n is the product of dim, which are at least 1. */
HN_NODISCARD hn_status hn_fed_layout_add(hn_fed_layout *l, const char *name, int ndim,
                                         const int64_t *dim, hn_fed_role role);
/* Something that is part of the digest: where only a fixed support of a tensor travels, the digest
 * of its ids. Replaces what was bound before. */
HN_NODISCARD hn_status hn_fed_layout_bind(hn_fed_layout *l, const char *text);
void hn_fed_layout_free(hn_fed_layout *l); /* accepts an empty one */

const hn_fed_tensor *hn_fed_layout_find(const hn_fed_layout *l, const char *name); /* or NULL */
/* The tensor of payload element i in [0, n). */
const hn_fed_tensor *hn_fed_layout_at(const hn_fed_layout *l, int64_t i);

/* SHA-256 over names, roles, shapes and the binding, in order. */
HN_NODISCARD hn_status hn_fed_layout_digest(const hn_fed_layout *l, char hex[HN_SHA256_HEX]);

/* Every element of v [n] is finite.
 * who     names the vector in the error: HN_ERR_NUMERIC with tensor and index */
HN_NODISCARD hn_status hn_fed_layout_check(const hn_fed_layout *l, const float *v, const char *who);

#ifdef __cplusplus
}
#endif
#endif
