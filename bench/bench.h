/* bench.h - one hn_bench_def describes one timed operation; hone-bench times all of bench.def.
 *
 * For each shape the harness builds enough independent argument sets that their memory is at least
 * twice the L2 cache, captures calls that walk round the sets into a graph (as hone runs them),
 * warms up, then times launches of that graph between device events. One JSON object a line:
 *   {"bench": "add_rmsnorm_fwd", "dtype": "bf16", "axes": {"rows": 16384, "cols": 2048},
 *    "us_p20": .., "us_p50": .., "us_p80": .., "gb_s": .., "of_copy": .., ...}
 * of_copy is the share of a device-to-device copy, of_gemm that of a large matrix product of the
 * same dtype through cuBLASLt, both timed in the same run in the same way.
 */
#ifndef HN_BENCH_H
#define HN_BENCH_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bench/bench_result.h"
#include "kernels/linear/gemm_cuda.h"
#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"
#include "runtime/device/device.h"

#define HN_BENCH_SHAPES(list) .shapes = (list), .n_shapes = (int)(sizeof(list) / sizeof *(list))

typedef struct hn_bench hn_bench; /* owns what the functions below hand out */

typedef enum {
    HN_FILL_NONE,     /* outputs and scratch */
    HN_FILL_NORMAL,   /* activations: mean 0, deviation 1 */
    HN_FILL_WEIGHT,   /* mean 0, deviation 0.02 */
    HN_FILL_POSITIVE, /* gains, reciprocal deviations, second moments: in [0.5, 1.5) */
} hn_bench_fill;

typedef struct {
    const char *name;
    const char *axes[HN_BENCH_AXES]; /* names of the numbers of a shape; NULL behind the last */
    const int64_t (*shapes)[HN_BENCH_AXES];
    int n_shapes;
    hn_dtype dtype;
    /* Of one call. flops NULL: bound by memory, of_copy is reported; else of_gemm. */
    double (*bytes)(const int64_t *shape, hn_dtype dtype); /* least memory traffic */
    double (*flops)(const int64_t *shape);
    bool uncaptured; /* enqueued call by call: a copy in a captured graph takes another engine */
    size_t args_size;
    hn_status (*setup)(hn_bench *b, const int64_t *shape, void *args); /* fills one set, zeroed */
    hn_status (*run)(const void *args, hn_stream stream);              /* enqueues one call */
} hn_bench_def;

/* For setup. Device memory, 256-byte aligned, random by `fill`, never zeros; NULL when it failed:
 * the harness reports why, whatever setup returns. dtype f32 or bf16, with HN_FILL_NONE any. */
void *hn_bench_array(hn_bench *b, int64_t n, hn_dtype dtype, hn_bench_fill fill);
void *hn_bench_scratch(hn_bench *b, size_t bytes);                   /* 0 bytes: NULL, no failure */
int32_t *hn_bench_ids(hn_bench *b, int64_t n, int64_t limit);        /* uniform in [0, limit) */
int32_t *hn_bench_positions(hn_bench *b, int64_t n, int64_t length); /* i modulo length */
int32_t *hn_bench_offsets(hn_bench *b, int64_t sequences, int64_t length); /* [sequences + 1] */
void *hn_bench_upload(hn_bench *b, const void *host, size_t bytes);
hn_gemm_cuda *hn_bench_gemm(const hn_bench *b);
/* Opens cuDNN on first use; NULL when it failed: hn_last_error says why. */
hn_attention_cudnn *hn_bench_attention(hn_bench *b);
hn_conv2d_cudnn *hn_bench_conv2d(hn_bench *b); /* the same */
hn_stream hn_bench_stream(const hn_bench *b);  /* for inputs that another operation makes */
hn_dtype hn_bench_dtype(const hn_bench *b);    /* of the definition that is set up */

/* For bench_main.c. */
typedef struct {
    const char *device; /* as in hn_device_open */
    int64_t batches;    /* at least so many are timed */
    double seconds;     /* and at least so long */
} hn_bench_settings;

HN_NODISCARD hn_status hn_bench_open(const hn_bench_settings *s, hn_bench **out);
void hn_bench_close(hn_bench *b); /* accepts NULL */
const hn_device *hn_bench_device(const hn_bench *b);
/* Fills in name, dtype and axes; the rest is 0. */
void hn_bench_describe(const hn_bench_def *d, const int64_t *shape, hn_bench_result *out);
/* Times one shape; *out gets name, dtype, axes, percentiles, gb_s and tflop_s. */
HN_NODISCARD hn_status hn_bench_time(hn_bench *b, const hn_bench_def *d, const int64_t *shape,
                                     hn_bench_result *out);

/* The ceilings: a copy, and the products that of_gemm refers to (bf16, f32). */
extern const hn_bench_def hn_bench_copy, hn_bench_gemm_bf16, hn_bench_gemm_f32;

#endif
