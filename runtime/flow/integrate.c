#include "runtime/flow/integrate.h"

#include <inttypes.h>
#include <stddef.h>

#include "runtime/base/alloc.h"

const hn_integrator_table *hn_integrator_of(hn_integrator kind)
{
    static const hn_integrator_table table[] = {
        [HN_INTEGRATE_EULER] = {"euler", 1, {{0.0, 0.0, 1.0}}},
        [HN_INTEGRATE_MIDPOINT] = {"midpoint", 2, {{0.0, 0.0, 0.0}, {0.5, 0.5, 1.0}}},
        [HN_INTEGRATE_RK4] = {"rk4",
                              4,
                              {{0.0, 0.0, 1.0 / 6.0},
                               {0.5, 0.5, 1.0 / 3.0},
                               {0.5, 0.5, 1.0 / 3.0},
                               {1.0, 1.0, 1.0 / 6.0}}},
    };
    return (unsigned)kind < HN_INTEGRATE_COUNT ? &table[kind] : NULL;
}

/* The state, the point of a stage, the slope there and the sum of the step. */
typedef struct {
    int64_t n;
    double *z, *point, *slope, *sum; /* [n] */
} flow_state;

static hn_status step(const hn_integrator_table *table, double t, double h, const flow_state *s,
                      hn_drift_fn drift, void *user)
{
    for (int i = 0; i < table->stages; i++) {
        const hn_integrator_stage *stage = &table->stage[i];
        for (int64_t j = 0; j < s->n; j++)
            s->point[j] = i > 0 ? s->z[j] + h * stage->a * s->slope[j] : s->z[j];
        HN_TRY(drift(user, t + h * stage->c, s->point, s->slope));
        for (int64_t j = 0; j < s->n; j++)
            s->sum[j] = (i > 0 ? s->sum[j] : 0.0) + stage->b * s->slope[j];
    }
    for (int64_t j = 0; j < s->n; j++) s->z[j] += h * s->sum[j];
    return HN_OK;
}

hn_status hn_integrate(hn_integrator kind, int64_t steps, double stop, int64_t n, double *z,
                       hn_drift_fn drift, void *user)
{
    hn_status st = HN_OK;
    const hn_integrator_table *table = hn_integrator_of(kind);
    if (table == NULL)
        return HN_FAIL(HN_ERR_ARG, "integrator %d is none of euler, midpoint, rk4", (int)kind);
    if (steps < 0 || n < 1)
        return HN_FAIL(HN_ERR_ARG, "%" PRId64 " steps of %" PRId64 " numbers", steps, n);
    if (!(stop >= 0.0 && stop <= 1.0))
        return HN_FAIL(HN_ERR_ARG, "stop time %g is not in [0, 1]", stop);
    double *const memory = hn_calloc((size_t)n, 3 * sizeof *memory);
    if (memory == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for slopes of %" PRId64 " numbers", n);
    const flow_state s = {n, z, memory, memory + n, memory + 2 * n};
    for (int64_t m = 0; m < steps && st == HN_OK; m++)
        st = step(table, stop * (double)m / (double)steps, stop / (double)steps, &s, drift, user);
    hn_free(memory);
    return st;
}
