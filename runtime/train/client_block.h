/* client_block.h - the simulation `block`: small convolutional nets, each client trained by one
 * block of a GPU from its first step to its last, with its weights in shared memory
 * (kernels/client/client_cnn.h). One launch a group of tasks.
 *
 * What it trains: networks of the family cnn that fit (hn_client_cnn_fits), whole, in fp32, by
 * plain SGD with FedProx; no augmentation, smoothing, momentum, decay or clipping; on a GPU with
 * all images in its memory, and no executor that compares. All else is refused by name. The results
 * are those of `one` up to the rounding of fp32, and of the same bits for the same tasks, whatever
 * group they are in. They come to the host in a few parts, each handed over while others come. On
 * the CPU the kernel's twin runs: slow, for tests. */
#ifndef HN_CLIENT_BLOCK_H
#define HN_CLIENT_BLOCK_H
#include "runtime/train/fed_sim.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Errors  HN_ERR_UNSUPPORTED naming what it cannot do; HN_ERR_ARG: no images, at_once below 1;
 *         HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_fed_blocks_new(const hn_fed_sim_options *o, hn_fed_sim **out);

#ifdef __cplusplus
}
#endif
#endif
