/* device.h - where a program's memory lies and its operations run: the CPU, or one GPU.
 *
 * A device owns a stream and three beside it, the cuBLASLt plans
 * (kernels/linear/gemm_cuda.h), those of attention and convolution through cuDNN
 * (kernels/attention/attention_cudnn.h, kernels/conv/conv2d_cudnn.h) and the libraries' workspace;
 * other memory is its caller's to give back. On the CPU memory is host memory and every call is
 * done when it returns. On a GPU all calls run in order on the device's stream; only what a caller
 * puts on a side stream runs beside them.
 *
 * In the library only this folder and .cu files know CUDA. Nothing links the driver: a build with
 * CUDA starts on a machine that has none, and hn_device_open says what is missing.
 */
#ifndef HN_DEVICE_H
#define HN_DEVICE_H
#include <stdbool.h>
#include <stddef.h>

#include "kernels/attention/attention_cudnn.h"
#include "kernels/conv/conv2d_cudnn.h"
#include "kernels/linear/gemm_cuda.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"
#include "runtime/device/collective.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { HN_DEVICE_CPU, HN_DEVICE_CUDA } hn_device_kind;

typedef struct hn_device hn_device;

/* spec   "cpu"; "cuda" (the first GPU) or "cuda:N"; "auto": the first GPU that works, else the CPU
 *        (hn_device_text says which and why)
 * Errors HN_ERR_ARG (spelling, no such GPU: names those there are), HN_ERR_UNSUPPORTED (a build
 *        without CUDA, no driver, a driver or GPU that is too old: both versions), HN_ERR_CUDA,
 *        HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_device_open(const char *spec, hn_device **out);
/* A GPU that is not there: programs can be planned for it, but nothing runs or is taken.
 * memory  bytes that it is to have; 0: not known
 * why     stays in hn_device_text
 * Errors  HN_ERR_UNSUPPORTED in a build without CUDA: its operations have no sizes */
HN_NODISCARD hn_status hn_device_open_absent(size_t memory, const char *why, hn_device **out);
void hn_device_close(hn_device *d); /* accepts NULL; its memory must have been released */
/* GPUs that this process sees: cuda:0 to cuda:n-1. Whether a program can use them, hn_device_open
 * says. Calls CUDA: a process that has asked may not fork (hn_launch_count_devices in
 * runtime/comm/launch.h may be asked before).
 * n       out; 0: there are none
 * why     out, one line if n is 0: no driver, no GPU, no CUDA code in this build; else ""
 * Errors  HN_ERR_UNSUPPORTED: a driver that is too old; HN_ERR_CUDA */
HN_NODISCARD hn_status hn_device_count(int *n, char *why, size_t size);

hn_device_kind hn_device_kind_of(const hn_device *d);
/* One line: "cuda:0, NVIDIA H200, 139.8 GiB, capability 9.0, CUDA 13.0, driver for CUDA 13.0". */
const char *hn_device_text(const hn_device *d);
hn_stream hn_device_stream(const hn_device *d);   /* NULL on the CPU */
hn_gemm_cuda *hn_device_gemm(const hn_device *d); /* NULL on the CPU */

/* What the ranks of a job compute together (collective.h), for programs that are recorded from now
 * on; c must outlive them, NULL: this rank is alone. */
void hn_device_set_collectives(hn_device *d, const hn_collectives *c);
const hn_collectives *hn_device_collectives(const hn_device *d); /* NULL: alone */

/* Side streams. What is put on one runs in order, beside the other streams.
 *   WORK   at a lower priority than the device's stream: in multiprocessors that are free
 *   AHEAD  what the device's stream will wait for: at the same priority
 *   FETCH  copies to the host (hn_device_fetch_beside)
 *   fork   what is put there from now on begins when all that is on the device's stream now is done
 *   mark   its end as it is now gets the number i, from 0 on, until mark(i) is called again, for
 *          either stream
 *   join   what is put on the device's stream from now on begins when mark i has been reached
 * Before a capture ends all that is on side streams must have been joined. GPU only. */
typedef enum { HN_SIDE_WORK, HN_SIDE_AHEAD, HN_SIDE_FETCH, HN_SIDE_STREAMS } hn_side_stream;
hn_stream hn_device_side_stream(const hn_device *d, hn_side_stream s); /* NULL on the CPU */
HN_NODISCARD hn_status hn_device_side_fork(hn_device *d, hn_side_stream s);
HN_NODISCARD hn_status hn_device_side_mark(hn_device *d, hn_side_stream s, int64_t i);
HN_NODISCARD hn_status hn_device_side_join(hn_device *d, int64_t i);
/* Matrix products that come are for HN_SIDE_WORK or for the device's stream: each has a workspace.
 * sms  multiprocessors that are set aside for the side stream (hn_gemm_cuda_sms): its products run
 *      on so many, the others on the rest; 0: no bounds. Nothing happens on the CPU. */
void hn_device_products(const hn_device *d, bool side, int sms);

/* Opens cuDNN unless that has been done; what its handle takes counts as taken when the device was
 * opened. Errors: those of hn_cudnn_open; HN_ERR_UNSUPPORTED on the CPU */
HN_NODISCARD hn_status hn_device_open_cudnn(hn_device *d);
hn_attention_cudnn *hn_device_attention(const hn_device *d); /* NULL until it is opened */
hn_conv2d_cudnn *hn_device_conv2d(const hn_device *d);       /* the same */

/* Room for the products of the device's stream to work in, and of the side stream where `side`, at
 * least `bytes` each: it is shared by all programs of the device and grows to what the largest one
 * wants; what was there before stays for graphs that were captured with it. Nothing on the CPU. */
HN_NODISCARD hn_status hn_device_take_workspace(hn_device *d, size_t bytes, bool side);
size_t hn_device_workspace_taken(const hn_device *d); /* 0 until it is taken */

/* Memory of the device, at least 256-byte aligned, zeroed (on a GPU in the order of its stream).
 * bytes > 0.
 * Errors  HN_ERR_MEMORY naming what is asked for, on a GPU also what is free and the total */
HN_NODISCARD hn_status hn_device_alloc(hn_device *d, size_t bytes, void **out);
void hn_device_release(hn_device *d, void *p);
/* Host memory that copies to the device run from without the host waiting. */
HN_NODISCARD hn_status hn_device_alloc_host(hn_device *d, size_t bytes, void **out);
void hn_device_release_host(hn_device *d, void *p);

/* Free and total bytes of the device's memory; both 0 on the CPU. */
HN_NODISCARD hn_status hn_device_memory(const hn_device *d, size_t *free_bytes,
                                        size_t *total_bytes);

/* Bytes that have gone from the free memory since the device was opened: once context and library
 * handles exist, so what a plan takes; 0 on the CPU. */
HN_NODISCARD hn_status hn_device_used(const hn_device *d, size_t *bytes);
/* For who has opened a library on the device: what has gone of the free memory since free_before
 * bytes of it were there counts as taken when the device was opened. */
HN_NODISCARD hn_status hn_device_count_taken(hn_device *d, size_t free_before);

/* write and read return when the copy is done; send and fetch do not wait: their host side is
 * memory of hn_device_alloc_host, to be left alone until hn_device_wait or until a fence behind
 * them has been passed. */
HN_NODISCARD hn_status hn_device_write(hn_device *d, void *to, const void *from, size_t bytes);
/* Rows of row_bytes that begin *_pitch bytes apart; what lies between rows at `to` stays. */
HN_NODISCARD hn_status hn_device_write_rows(hn_device *d, void *to, size_t to_pitch,
                                            const void *from, size_t from_pitch, size_t row_bytes,
                                            size_t rows);
HN_NODISCARD hn_status hn_device_read(hn_device *d, void *to, const void *from, size_t bytes);
HN_NODISCARD hn_status hn_device_send(hn_device *d, void *to, const void *from, size_t bytes);
HN_NODISCARD hn_status hn_device_fetch(hn_device *d, void *to, const void *from, size_t bytes);
/* Both in the device's memory, not overlapping; in the order of its stream. */
HN_NODISCARD hn_status hn_device_copy(hn_device *d, void *to, const void *from, size_t bytes);
HN_NODISCARD hn_status hn_device_fill(hn_device *d, void *p, int byte, size_t bytes);
HN_NODISCARD hn_status hn_device_wait(hn_device *d);

/* A place in the order of the stream, for a host that must not wait for all that comes behind it. A
 * new fence, and every fence on the CPU, has been passed. */
typedef struct hn_device_fence hn_device_fence;
HN_NODISCARD hn_status hn_device_fence_new(hn_device *d, hn_device_fence **out);
void hn_device_fence_free(hn_device_fence *m); /* accepts NULL; before its device is closed */
HN_NODISCARD hn_status hn_device_fence_here(hn_device_fence *m); /* moves it to the end */
HN_NODISCARD hn_status hn_device_fence_wait(hn_device_fence *m);
HN_NODISCARD hn_status hn_device_fence_passed(const hn_device_fence *m, bool *passed);

/* A fetch beside the device's stream, which goes on meanwhile; fetches come one after the other.
 * behind  what comes begins when all that is on the device's stream now is done
 * beside  the copy; m is moved behind it. hn_device_wait does not wait for it */
HN_NODISCARD hn_status hn_device_fetch_behind(hn_device *d);
HN_NODISCARD hn_status hn_device_fetch_beside(hn_device *d, void *to, const void *from,
                                              size_t bytes, hn_device_fence *m);

/* Marks of the device's clock between what is enqueued. mark(i) enqueues mark i, in order from 0 on
 * (0 begins anew); waits for nothing. marks waits for all of them: ms[i] from mark i to mark i + 1,
 * for i < n. Errors: HN_ERR_MEMORY; HN_ERR_ARG: mark n has not been made */
HN_NODISCARD hn_status hn_device_mark(hn_device *d, int64_t i);
HN_NODISCARD hn_status hn_device_marks(hn_device *d, int64_t n, double *ms);

/* What is enqueued between begin and end becomes a graph that hn_device_launch enqueues again.
 * After an error in between, hn_device_capture_end(d, NULL) gives the capture up. GPU only. */
typedef struct hn_device_graph hn_device_graph;
HN_NODISCARD hn_status hn_device_capture_begin(hn_device *d);
HN_NODISCARD hn_status hn_device_capture_end(hn_device *d, hn_device_graph **out);
HN_NODISCARD hn_status hn_device_launch(hn_device *d, const hn_device_graph *g);
void hn_device_graph_free(hn_device_graph *g); /* accepts NULL */

#ifdef __cplusplus
}
#endif
#endif
