/* client_cnn_plan.h - sizes of a client's net, and what lies where in a block's shared memory. For
 * the sources of this folder only.
 *
 * Shared memory, in floats; every piece begins on 16 bytes:
 *
 *   weights    conv 0 [channel][row][column][filter], others [filter][channel / 4][row][column][4],
 *              fc1, fc2 [out][in]; a bias behind each
 *   features   [batch][in of fc1], the last pool's output; then its gradient
 *   grad       of the convolutions, as they lie in `weights`, biases behind each
 *   scratch    [hidden][HN_CLIENT_LD] and [classes][HN_CLIENT_LD]: activations and their gradients;
 *              while convolutions go backward, pieces of their gradients
 *   rows       numbers of the images, labels, losses
 *   chunk images at a time:
 *   bytes      as they come       pixels   [image][channel][pixel], normalised
 *   map l      output of step l, [image][channel / 4][pixel][4]; then its gradient
 *   choice l   2 bits a channel: which pixel of the window; [image][channel / 4][pixel], a byte
 *              for four channels. Of the last step for the whole batch.
 *   alive l    4 bits: whether it is above 0
 */
#ifndef HN_CLIENT_CNN_PLAN_H
#define HN_CLIENT_CNN_PLAN_H
#include "kernels/client/client_cnn.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HN_CLIENT_THREADS = 512,
    /* Numbers of three steps, labels, losses; sums. */
    HN_CLIENT_ROW_WORDS = 5 * HN_CLIENT_CNN_BATCH + 16,
    HN_CLIENT_LD = HN_CLIENT_CNN_BATCH + 4, /* neighbours in one column: different banks */
};

typedef struct {
    int64_t in_h, in_w, in_c, out_c; /* of the convolution */
    int64_t h, w;                    /* behind the pool */
} hn_client_cnn_step;

/* Sizes of step l, of a net that passes the check up to there. */
hn_client_cnn_step hn_client_cnn_step_of(const hn_client_cnn_net *net, int64_t l);
/* Inputs of fc1. */
int64_t hn_client_cnn_features(const hn_client_cnn_net *net);

typedef struct {
    size_t n_bytes;
    int64_t chunk;
    int64_t conv_w[HN_CLIENT_CNN_STEPS], conv_b[HN_CLIENT_CNN_STEPS];
    int64_t fc1_w, fc1_b, fc2_w, fc2_b;
    int64_t features, grad[HN_CLIENT_CNN_STEPS], grad_end, scratch, scratch_end, rows;
    int64_t bytes, pixels;
    int64_t map[HN_CLIENT_CNN_STEPS], choice[HN_CLIENT_CNN_STEPS], alive[HN_CLIENT_CNN_STEPS];
} hn_client_cnn_plan;

/* With the number of images at a time that costs least in `limit` bytes; n_bytes is more than the
 * limit where not even one fits. */
hn_client_cnn_plan hn_client_cnn_plan_of(const hn_client_cnn_net *net, int64_t batch, size_t limit);

#ifdef __cplusplus
}
#endif
#endif
