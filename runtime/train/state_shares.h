/* state_shares.h - checkpoints of runs whose ranks share optimizer state (ZeRO stage 1; hn_split of
 * runtime/adapt/params.h): every rank writes its own share.
 *
 *   optimizer-<r>.safetensors   of rank r of R: of every trained parameter that its share cuts the
 *                               masters "<parameter>" and moments "<parameter>.m", ".v", f32 [n]:
 *                               values first .. first + n - 1 in the order of storage, without
 *                               padding. Metadata hone.share: ranks, rank, step, moments, run and
 *                               "first" by parameter
 *   delta.safetensors           buffers alone; its manifest has "shares": ranks, moments, run
 *
 * run is a digest of the run's identity. All other files are those of state.h. Any number of ranks
 * reads such a checkpoint, whether it shares state or not: the values that it needs, wherever they
 * lie. A share that is missing, of another rank, run or step, or that does not go on where the one
 * before it ends is refused by name. */
#ifndef HN_STATE_SHARES_H
#define HN_STATE_SHARES_H
#include "runtime/comm/hn_comm.h"
#include "runtime/train/state.h"

#ifdef __cplusplus
extern "C" {
#endif

/* hn_state_save of such a run: all ranks call it. Rank 0 begins the checkpoint, every rank writes
 * its share into it, and rank 0 completes it when all are there.
 * Errors  those of hn_state_save; HN_ERR_COMM: another rank is gone. The checkpoint is complete
 *         then, or not there */
HN_NODISCARD hn_status hn_state_save_shares(const char *out_dir, const hn_params *p,
                                            const hn_run_identity *id, const hn_run_state *s,
                                            hn_hub *hub);

typedef struct hn_shares hn_shares;

/* The shares of a checkpoint, for p's trained parameters; *out NULL: it is a whole one.
 * Errors  HN_ERR_FORMAT naming file and place, HN_ERR_IO, HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_shares_open(const char *dir, const hn_params *p, hn_shares **out);
void hn_shares_close(hn_shares *s); /* accepts NULL */
/* Values first .. first + n - 1 of a trained parameter, in the order of storage.
 * Errors  HN_ERR_FORMAT: the run had no such moments */
HN_NODISCARD hn_status hn_shares_read(const hn_shares *s, const hn_param *q, hn_kept what,
                                      int64_t first, int64_t n, float *stored);
/* All masters of a parameter, in the order of files. */
HN_NODISCARD hn_status hn_shares_value(const hn_shares *s, const hn_param *q, float *filed);

/* For the manifest; NULL: nothing is shared, or no memory. */
struct json_t *hn_shares_manifest(const hn_params *p, const hn_run_identity *id);

#ifdef __cplusplus
}
#endif
#endif
