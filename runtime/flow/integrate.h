/* integrate.h - dz/dt = drift(z, t) from z(0) to a stop time, in equal steps.
 *
 * Stage i of a step from t_m = stop m / M, of length h = stop / M:
 *
 *   k_i = drift(z + h a_i k_{i-1}, t_m + h c_i)        z <- z + h sum_i b_i k_i
 *
 * The methods here need no more of a stage than the slope before it:
 *   Euler     1 stage: (c, a, b) = (0, 0, 1)                                        error O(h)
 *   midpoint  2: (0, 0, 0), (1/2, 1/2, 1)                                           error O(h^2)
 *   RK4       4: (0, 0, 1/6), (1/2, 1/2, 1/3), (1/2, 1/2, 1/3), (1, 1, 1/6)         error O(h^4)
 *
 * The host's reference, in double; who records the steps in a graph reads the same tables.
 */
#ifndef HN_INTEGRATE_H
#define HN_INTEGRATE_H
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    HN_INTEGRATE_EULER,
    HN_INTEGRATE_MIDPOINT,
    HN_INTEGRATE_RK4,
    HN_INTEGRATE_COUNT
} hn_integrator;

enum { HN_MAX_STAGES = 4 };

typedef struct {
    double c, a, b; /* time within the step; weight of the slope before; weight in the step */
} hn_integrator_stage;

typedef struct {
    const char *name; /* "euler", "midpoint", "rk4" */
    int stages;
    hn_integrator_stage stage[HN_MAX_STAGES];
} hn_integrator_table;

const hn_integrator_table *hn_integrator_of(hn_integrator kind); /* NULL when out of range */

/* slope [n] = drift at time t where the state is z [n]; user as given to hn_integrate. What it
 * returns other than HN_OK ends the integration. */
typedef hn_status (*hn_drift_fn)(void *user, double t, const double *z, double *slope);

/* Moves z [n] from time 0 to `stop` in `steps` steps; none: z stays as it is.
 * Errors   HN_ERR_ARG (steps below 0, stop outside [0, 1], kind), HN_ERR_MEMORY, drift's; z is
 *          unspecified behind an error of drift */
HN_NODISCARD hn_status hn_integrate(hn_integrator kind, int64_t steps, double stop, int64_t n,
                                    double *z, hn_drift_fn drift, void *user);

#ifdef __cplusplus
}
#endif
#endif
