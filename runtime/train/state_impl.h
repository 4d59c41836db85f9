/* state_impl.h - for state.c and state_shares.c only. */
#ifndef HN_STATE_IMPL_H
#define HN_STATE_IMPL_H
#include "runtime/file/checkpoint.h"
#include "runtime/train/state_shares.h"

/* All files of a checkpoint but the shares of optimizer state. */
HN_NODISCARD hn_status hn_state_write(hn_ckpt *c, const hn_params *p, const hn_run_identity *id,
                                      const hn_run_state *s);
#endif
