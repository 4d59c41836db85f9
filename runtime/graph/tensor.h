/* tensor.h - a planned tensor's values from the host's side: loading, saving, tests.
 *
 * All of it waits for what runs on the device and is done when it returns. Tensors with replicas:
 * replica 0, or the one of hn_tensor_replica. Errors: HN_ERR_MEMORY, HN_ERR_CUDA. Of a tensor in a
 * range of shards (shards.h) what is written is this rank's share alone, the rest is left out;
 * reading it is HN_ERR_UNSUPPORTED.
 */
#ifndef HN_TENSOR_H
#define HN_TENSOR_H
#include "runtime/graph/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Replica g alone, for the functions below: one of no program's tensors. g is 0 where t has none.
 */
hn_tensor hn_tensor_replica(const hn_tensor *t, int64_t g);

/* Where replica g of a class that has replicas begins in the device's memory, and how long it is:
 * tensors lie in it as they do in replica 0. Bytes 0: the class is empty. */
void *hn_program_replica(const hn_program *p, hn_mem mem, int64_t g, size_t *n_bytes);

/* Of all tensors of a class that has replicas: replica 0 becomes all of them; all bytes become 0.
 * On the device, in the order of its stream: neither waits. */
HN_NODISCARD hn_status hn_program_spread(hn_program *p, hn_mem mem);
HN_NODISCARD hn_status hn_program_clear(hn_program *p, hn_mem mem);

/* Bytes from the first element to behind the last, padding between rows included. */
size_t hn_tensor_span(const hn_tensor *t);

/* `bytes` from byte `offset` of the tensor's memory. */
HN_NODISCARD hn_status hn_tensor_write(const hn_tensor *t, size_t offset, const void *from,
                                       size_t bytes);
HN_NODISCARD hn_status hn_tensor_read(const hn_tensor *t, size_t offset, void *to, size_t bytes);

/* Rows first .. first+rows-1 from rows that lie from_pitch bytes apart. What lies between the rows
 * of a view belongs to others and stays as it is. */
HN_NODISCARD hn_status hn_tensor_write_rows(const hn_tensor *t, int64_t first, int64_t rows,
                                            const void *from, size_t from_pitch);

/* Float tensors, from and to dense fp32 [rows, cols]; rounded to nearest even where stored. What
 * lies between the rows of a view stays as it is. */
HN_NODISCARD hn_status hn_tensor_set(const hn_tensor *t, const float *dense);
HN_NODISCARD hn_status hn_tensor_set_rows(const hn_tensor *t, int64_t first, int64_t rows,
                                          const float *dense);
HN_NODISCARD hn_status hn_tensor_get(const hn_tensor *t, float *dense);

/* The tensor's bytes in host memory: its own on the CPU (then *copy is NULL), else a copy of the
 * whole span, which the caller gives to hn_free. */
HN_NODISCARD hn_status hn_tensor_host(const hn_tensor *t, const void **data, void **copy);

#ifdef __cplusplus
}
#endif
#endif
