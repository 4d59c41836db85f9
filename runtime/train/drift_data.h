/* drift_data.h - what a drift network learns from, on the host: trajectories by task, and the rows
 * of a table of features that are each task's support images. */
#ifndef HN_DRIFT_DATA_H
#define HN_DRIFT_DATA_H
#include "runtime/base/dtype.h"
#include "runtime/flow/trajectory.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t n, knots;          /* trajectories; knots of each */
    const hn_f16 *const *knot; /* [n] -> [knots][numbers], in units */
    const float *unit;         /* [n] */
    int64_t tasks, support;    /* support: rows of a task, padding included */
    const int64_t *first;      /* [tasks + 1]: those of task e are first[e] .. first[e+1] - 1 */
    const int32_t *images;     /* [tasks] support images */
    const int32_t *row;        /* [tasks][support] rows of the table of features; padding: 0 */
    const int32_t *label;      /* [tasks][support] classes; padding: HN_LABEL_IGNORED */
    void *memory;              /* behind all of this; NULL: the caller's */
} hn_drift_data;

/* Records of one domain and episode are one task; tasks are in the order of (domain, episode).
 * t             must outlive *out
 * first_row     [domains of the file]: which row of the table is image 0 of a domain
 * n_images      [domains of the file]
 * Errors        HN_ERR_FORMAT: an image that its domain has not, records of one episode with
 *               different support sets (each names the record); HN_ERR_ARG: no record;
 *               HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_drift_data_make(const hn_trajectories *t, const int64_t *first_row,
                                          const int64_t *n_images, int64_t domains,
                                          hn_drift_data *out);
void hn_drift_data_free(hn_drift_data *d); /* accepts an empty one */

#ifdef __cplusplus
}
#endif
#endif
