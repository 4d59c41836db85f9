/* sparse_loop.h - selections of hone-sparse around and inside the training loop (hn_method_hooks).
 *
 *   begin    the first support: by batches of gradients that move nothing, by the weights, or a
 *            mask; of a resumed run the checkpoint has it
 *   before   says what the step gathers, and clears or chooses candidates where a phase begins
 *   looks    a reselection follows these steps
 *   behind   makes it: new blocks, their moments, one line of the log
 *   end      where the blocks of the result are (sparse_map.h)
 */
#ifndef HN_SPARSE_LOOP_H
#define HN_SPARSE_LOOP_H
#include "runtime/train/session.h"

HN_NODISCARD hn_status hn_sparse_loop_begin(hn_session *s, const hn_schedule *schedule,
                                            int64_t step);
HN_NODISCARD hn_status hn_sparse_loop_before(hn_session *s, int64_t step);
bool hn_sparse_loop_looks(const hn_session *s, int64_t step);
HN_NODISCARD hn_status hn_sparse_loop_end(hn_session *s, const char *out);
HN_NODISCARD hn_status hn_sparse_loop_behind(hn_session *s, int64_t step, const hn_log *log);
#endif
