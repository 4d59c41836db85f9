/* client_cnn.h - local training of many small convolutional nets at once: all steps of all clients
 * in one call.
 *
 * The net, for an image of the set normalised as image_prep.h does, (byte / 255 - mean) / std:
 *
 *   step l = 0 .. steps-1   x = relu(max_pool2(conv_l(x)))     kernel x kernel, pad, stride 1
 *   hidden                  x = relu(fc1 flatten(x))           flattened as it lies: row, column,
 *   logits                  z = fc2 x                          channel
 *
 * Step t = 0 .. client_steps[g]-1 of client g has the images rows[g,t,:] of which those that are
 * not -1 count, m of them; grad is the gradient of their mean cross-entropy:
 *
 *   p -= lr[g,t] (grad + weight_decay p + mu (p - start))
 *
 * plain SGD with the proximal term of FedProx (Li et al. 2020). A step without images changes
 * nothing. p begins at `start`, and ends in `values`. loss[g] is the mean cross-entropy over the
 * images of the steps loss_from[g] .. client_steps[g]-1, each taken before its update; 0 without
 * any. status[g] is HN_CLIENT_NONFINITE where a loss, or a trained value at the end, is NaN or
 * infinite.
 *
 * Shapes     start [n], or [clients][n]; values [clients][n]. `at` says where tensors lie in the n
 *            values: convolutions [filters, kernel, kernel, channels in], layers [out, in], biases.
 *            Values that belong to no tensor are copied.
 *            images [count, height, width, channels]; labels [count]; rows [clients][steps][batch].
 * Precision  fp32. Convolutions sum fp32 fused multiply-adds from the bias on, in one order: the
 *            first one by channel, row, column; the others by four channels, row, column, channel.
 *            Pooled values and their places are therefore the same bits everywhere when weights
 *            are. Twin: everything else in double, rounded when stored.
 * Limits     1 to 4 steps; kernel 3 with pad 0 to 2, or 5 without; 1 to 4 channels; filters and
 *            hidden multiples of 4; classes 2 to 256; batch 1 to 32; sides below 4096. CUDA: what
 *            a batch needs lies in the shared memory of a block, see hn_client_cnn_fits.
 * Aliasing   values may be start where each client has one of its own, at the same stride.
 * Repeats    bit for bit on the same kind of GPU, and for any number of threads. A client's numbers
 *            do not depend on the others.
 * CUDA       one block a client. A number of an image outside -1 .. count-1 is padding; a label
 *            outside the classes makes the loss NaN.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED before the first write; the CPU function
 *            also reports a number of steps, image or label that is out of range, with its client,
 *            as HN_ERR_ARG, and HN_ERR_MEMORY, by then some clients may have been written. CUDA:
 *            HN_ERR_UNSUPPORTED where it does not fit, with the bytes.
 */
#ifndef HN_CLIENT_CNN_H
#define HN_CLIENT_CNN_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HN_CLIENT_CNN_STEPS = 4,
    HN_CLIENT_CNN_BATCH = 32,
    HN_CLIENT_CNN_CLASSES = 256,
    HN_CLIENT_CNN_CHANNELS = 4,
};

/* status of a client. */
enum { HN_CLIENT_DONE = 0, HN_CLIENT_NONFINITE = 1 };

typedef struct {
    int64_t height, width, channels; /* of an image */
    int64_t steps, filters[HN_CLIENT_CNN_STEPS];
    int64_t kernel, pad;
    int64_t hidden, classes;
} hn_client_cnn_net;

/* Where the tensors begin in a client's values. */
typedef struct {
    int64_t conv_w[HN_CLIENT_CNN_STEPS], conv_b[HN_CLIENT_CNN_STEPS];
    int64_t fc1_w, fc1_b, fc2_w, fc2_b;
} hn_client_cnn_at;

typedef struct {
    hn_client_cnn_net net;
    hn_client_cnn_at at;
    const float *start;          /* in  [n] or [clients][n] */
    float *values;               /* out [clients][n] */
    const uint8_t *images;       /* in  [count, height, width, channels] */
    const int32_t *labels;       /* in  [count] 0 .. classes-1 */
    const int32_t *rows;         /* in  [clients][steps][batch] images of each step; -1: none */
    const int32_t *client_steps; /* in  [clients] 0 .. steps */
    const int32_t *loss_from;    /* in  [clients] first step that counts for loss */
    const float *lr;             /* in  [steps] or [clients][steps] */
    float *loss;                 /* out [clients] */
    int32_t *status;             /* out [clients] HN_CLIENT_... */
    int64_t clients, steps, batch, count, n;
    int64_t start_stride;  /* 0: one for all; else from client to client */
    int64_t values_stride; /* at least n */
    int64_t lr_stride;     /* 0: one for all; else at least steps */
    float mu, weight_decay;
    float mean[HN_CLIENT_CNN_CHANNELS];
    float std[HN_CLIENT_CNN_CHANNELS]; /* 0: 1 */
} hn_client_cnn_args;

/* The tensors behind each other in the order of hone's files: conv1.weight, conv1.bias, ..,
 * fc1.weight, .., fc2.bias; the number of values that they take. The net must pass the check. */
int64_t hn_client_cnn_layout(const hn_client_cnn_net *net, hn_client_cnn_at *at);

HN_NODISCARD hn_status hn_client_cnn_check_net(const hn_client_cnn_net *net);
/* Does not read memory but the struct: hn_client_cnn_check_rows does (host memory). */
HN_NODISCARD hn_status hn_client_cnn_check(const hn_client_cnn_args *a);
HN_NODISCARD hn_status hn_client_cnn_check_rows(const hn_client_cnn_args *a);

/* Bytes of shared memory that a block needs at least, for a net that passes the check. */
size_t hn_client_cnn_bytes(const hn_client_cnn_net *net, int64_t batch);
/* HN_ERR_UNSUPPORTED for a batch beyond the limits, or, with both numbers, where the bytes are more
 * than `limit` (H200: 232,448). */
HN_NODISCARD hn_status hn_client_cnn_fits(const hn_client_cnn_net *net, int64_t batch,
                                          size_t limit);

HN_NODISCARD hn_status hn_client_cnn_cpu(const hn_client_cnn_args *a);
/* Device pointers. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_client_cnn_cuda(const hn_client_cnn_args *a,
                                                           hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
