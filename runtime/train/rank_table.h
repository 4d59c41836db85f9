/* rank_table.h - ranks and distances of all layers and tasks as a CSV file, for the record and for
 * scripts/tables/rank_map.py.
 *
 *   task,layer,rows,cols,rank,dense,parameters,distance,cosine,effective_rank,k_energy,k_reference,
 *   reference_norm
 *
 * (one line), a row for each task and layer in the order given. dense is 0 or 1; numbers have 9
 * digits, an infinite distance is "inf". Written atomically.
 * Errors     HN_ERR_ARG: a layer without a name, or one with ',', '"' or a control character;
 *            HN_ERR_IO, HN_ERR_WRITE, HN_ERR_MEMORY.
 */
#ifndef HN_RANK_TABLE_H
#define HN_RANK_TABLE_H
#include <stdint.h>

#include "runtime/adapt/rank_rule.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t task; /* from 1 on */
    const char *layer;
    int64_t m, n;
    hn_rank_choice choice;
    hn_rank_proximity near;
} hn_rank_row;

HN_NODISCARD hn_status hn_rank_save_csv(const char *path, const hn_rank_row *rows, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
