/* A GPU through the CUDA runtime. The runtime looks up the driver's entry points itself, so that
 * this file links without a driver and says so when there is none. */
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/cuda_check.h"
#include "runtime/device/device_impl.h"

struct hn_device_graph {
    cudaGraphExec_t exec;
};

/* ---- memory ---- */

static hn_status memory_cuda(const hn_device *d, size_t *free_bytes, size_t *total_bytes)
{
    (void)d;
    return HN_CUDA(cudaMemGetInfo(free_bytes, total_bytes));
}

static hn_status out_of_memory(const hn_device *d, size_t bytes)
{
    size_t free_bytes = 0, total_bytes = 0;
    if (cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) (void)cudaGetLastError();
    return HN_FAIL(HN_ERR_MEMORY, "%.3f GiB of GPU memory: %.3f GiB of %.3f GiB are free on %s",
                   (double)bytes / 0x1p30, (double)free_bytes / 0x1p30,
                   (double)total_bytes / 0x1p30, d->text);
}

static hn_status alloc_cuda(hn_device *d, size_t bytes, void **out)
{
    void *p = NULL;
    const cudaError_t e = cudaMalloc(&p, bytes);
    if (e == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return out_of_memory(d, bytes);
    }
    HN_TRY(HN_CUDA(e));
    const hn_status st = HN_CUDA(cudaMemsetAsync(p, 0, bytes, d->stream));
    if (st != HN_OK)
        (void)cudaFree(p);
    else
        *out = p;
    return st;
}

static void release_cuda(hn_device *d, void *p)
{
    (void)d;
    (void)cudaFree(p);
}

static hn_status alloc_host_cuda(hn_device *d, size_t bytes, void **out)
{
    (void)d;
    void *p = NULL;
    HN_TRY(HN_CUDA(cudaHostAlloc(&p, bytes, cudaHostAllocDefault)));
    memset(p, 0, bytes);
    *out = p;
    return HN_OK;
}

static void release_host_cuda(hn_device *d, void *p)
{
    (void)d;
    (void)cudaFreeHost(p);
}

static hn_status wait_cuda(hn_device *d) { return HN_CUDA(cudaStreamSynchronize(d->stream)); }

static hn_status send_cuda(hn_device *d, void *to, const void *from, size_t bytes)
{
    return HN_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, d->stream));
}

static hn_status fetch_cuda(hn_device *d, void *to, const void *from, size_t bytes)
{
    return HN_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, d->stream));
}

static hn_status write_cuda(hn_device *d, void *to, const void *from, size_t bytes)
{
    HN_TRY(send_cuda(d, to, from, bytes));
    return wait_cuda(d);
}

static hn_status write_rows_cuda(hn_device *d, void *to, size_t to_pitch, const void *from,
                                 size_t from_pitch, size_t row_bytes, size_t rows)
{
    HN_TRY(HN_CUDA(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, row_bytes, rows,
                                     cudaMemcpyHostToDevice, d->stream)));
    return wait_cuda(d);
}

static hn_status read_cuda(hn_device *d, void *to, const void *from, size_t bytes)
{
    HN_TRY(fetch_cuda(d, to, from, bytes));
    return wait_cuda(d);
}

static hn_status copy_cuda(hn_device *d, void *to, const void *from, size_t bytes)
{
    return HN_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, d->stream));
}

static hn_status fill_cuda(hn_device *d, void *p, int byte, size_t bytes)
{
    return HN_CUDA(cudaMemsetAsync(p, byte, bytes, d->stream));
}

/* ---- side streams ---- */

static hn_status side_fork_cuda(hn_device *d, hn_side_stream s)
{
    HN_TRY(HN_CUDA(cudaEventRecord(d->forked, d->stream)));
    return HN_CUDA(cudaStreamWaitEvent(d->side[s], d->forked, 0));
}

static hn_status make_side_marks(hn_device *d, int64_t n)
{
    cudaEvent_t *events = hn_realloc(d->side_marks, (size_t)n * sizeof(cudaEvent_t));
    if (events == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %lld marks", (long long)n);
    d->side_marks = events;
    for (; d->n_side_marks < n; d->n_side_marks++)
        HN_TRY(HN_CUDA(cudaEventCreateWithFlags(&events[d->n_side_marks], cudaEventDisableTiming)));
    return HN_OK;
}

static hn_status side_mark_cuda(hn_device *d, hn_side_stream s, int64_t i)
{
    if (i >= d->n_side_marks) HN_TRY(make_side_marks(d, 2 * i + 64));
    return HN_CUDA(cudaEventRecord(d->side_marks[i], d->side[s]));
}

static hn_status side_join_cuda(hn_device *d, int64_t i)
{
    if (i >= d->n_side_marks) return HN_FAIL(HN_ERR_ARG, "mark %lld was never made", (long long)i);
    return HN_CUDA(cudaStreamWaitEvent(d->stream, d->side_marks[i], 0));
}

/* Work on the side gets what the first stream leaves free: of two kernels that are ready, blocks of
 * the first stream's go first. */
static hn_status open_streams(hn_device *d)
{
    int least = 0, greatest = 0;
    HN_TRY(HN_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest)));
    HN_TRY(HN_CUDA(cudaStreamCreateWithPriority(&d->stream, cudaStreamNonBlocking, greatest)));
    for (int s = 0; s < HN_SIDE_STREAMS; s++)
        HN_TRY(HN_CUDA(cudaStreamCreateWithPriority(&d->side[s], cudaStreamNonBlocking,
                                                    s == HN_SIDE_WORK ? least : greatest)));
    return HN_CUDA(cudaEventCreateWithFlags(&d->forked, cudaEventDisableTiming));
}

/* ---- captured graphs ---- */

static hn_status capture_begin_cuda(hn_device *d)
{
    return HN_CUDA(cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal));
}

static hn_status instantiate(hn_device *d, cudaGraph_t graph, hn_device_graph **out)
{
    hn_device_graph *g = hn_calloc(1, sizeof *g);
    if (g == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a captured graph", sizeof *g);
    /* a node keeps the priority of the stream that it was captured from */
    hn_status st =
        HN_CUDA(cudaGraphInstantiate(&g->exec, graph, cudaGraphInstantiateFlagUseNodePriority));
    if (st == HN_OK) st = HN_CUDA(cudaGraphUpload(g->exec, d->stream)); /* memory is taken now */
    if (st != HN_OK)
        hn_device_graph_free_cuda(g);
    else
        *out = g;
    return st;
}

static hn_status capture_end_cuda(hn_device *d, hn_device_graph **out)
{
    cudaGraph_t graph = NULL;
    const cudaError_t e = cudaStreamEndCapture(d->stream, &graph);
    hn_status st = HN_OK;
    if (out == NULL)
        (void)cudaGetLastError(); /* given up: what went wrong has been said already */
    else
        st = HN_CUDA(e);
    if (st == HN_OK && out != NULL) st = instantiate(d, graph, out);
    if (graph != NULL) (void)cudaGraphDestroy(graph);
    return st;
}

static hn_status launch_cuda(hn_device *d, const hn_device_graph *g)
{
    return HN_CUDA(cudaGraphLaunch(g->exec, d->stream));
}

void hn_device_graph_free_cuda(hn_device_graph *g)
{
    if (g->exec != NULL) (void)cudaGraphExecDestroy(g->exec);
    hn_free(g);
}

/* ---- fences ---- */

/* Without a time, which costs; a host that waits sleeps, as it waits for most of a step. */
static hn_status fence_new_cuda(hn_device_fence *m)
{
    return HN_CUDA(
        cudaEventCreateWithFlags(&m->event, cudaEventDisableTiming | cudaEventBlockingSync));
}

static hn_status fence_here_cuda(hn_device_fence *m)
{
    return HN_CUDA(cudaEventRecord(m->event, m->device->stream));
}

static hn_status fence_wait_cuda(hn_device_fence *m)
{
    return HN_CUDA(cudaEventSynchronize(m->event));
}

static hn_status fence_passed_cuda(const hn_device_fence *m, bool *passed)
{
    const cudaError_t e = cudaEventQuery(m->event);
    *passed = e == cudaSuccess;
    if (e != cudaErrorNotReady) return HN_CUDA(e);
    (void)cudaGetLastError(); /* no error, though it is kept like one */
    return HN_OK;
}

static hn_status fetch_beside_cuda(hn_device *d, void *to, const void *from, size_t bytes,
                                   hn_device_fence *m)
{
    const hn_stream side = d->side[HN_SIDE_FETCH];
    HN_TRY(HN_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, side)));
    return HN_CUDA(cudaEventRecord(m->event, side));
}

void hn_device_event_free_cuda(struct CUevent_st *event) { (void)cudaEventDestroy(event); }

/* ---- opening ---- */

static void close_cuda(hn_device *d)
{
    hn_attention_cudnn_close(d->attention);
    hn_conv2d_cudnn_close(d->conv2d);
    hn_cudnn_close(d->cudnn);
    hn_gemm_cuda_close(d->gemm);
    for (int64_t i = 0; i < d->n_marks; i++) (void)cudaEventDestroy(((cudaEvent_t *)d->marks)[i]);
    hn_free(d->marks);
    for (int64_t i = 0; i < d->n_side_marks; i++) (void)cudaEventDestroy(d->side_marks[i]);
    hn_free(d->side_marks);
    if (d->forked != NULL) (void)cudaEventDestroy(d->forked);
    for (int s = 0; s < HN_SIDE_STREAMS; s++) {
        if (d->side[s] != NULL) (void)cudaStreamDestroy(d->side[s]);
        d->side[s] = NULL;
    }
    if (d->stream != NULL) (void)cudaStreamDestroy(d->stream);
    d->attention = NULL;
    d->conv2d = NULL;
    d->cudnn = NULL;
    d->gemm = NULL;
    d->stream = NULL;
    d->forked = NULL;
    d->side_marks = NULL;
    d->n_side_marks = 0;
    d->marks = NULL;
    d->n_marks = d->n_made = 0;
}

/* ---- marks ---- */

static hn_status make_marks(hn_device *d, int64_t n)
{
    cudaEvent_t *events = hn_realloc(d->marks, (size_t)n * sizeof(cudaEvent_t));
    if (events == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %lld marks", (long long)n);
    d->marks = events;
    for (; d->n_marks < n; d->n_marks++) HN_TRY(HN_CUDA(cudaEventCreate(&events[d->n_marks])));
    return HN_OK;
}

static hn_status mark_cuda(hn_device *d, int64_t i)
{
    if (i >= d->n_marks) HN_TRY(make_marks(d, 2 * i + 64));
    return HN_CUDA(cudaEventRecord(((cudaEvent_t *)d->marks)[i], d->stream));
}

static hn_status marks_cuda(hn_device *d, int64_t n, double *ms)
{
    const cudaEvent_t *events = d->marks;
    HN_TRY(wait_cuda(d));
    for (int64_t i = 0; i < n; i++) {
        float one = 0.0f;
        HN_TRY(HN_CUDA(cudaEventElapsedTime(&one, events[i], events[i + 1])));
        ms[i] = (double)one;
    }
    return HN_OK;
}

static const hn_device_calls cuda_calls = {
    .close = close_cuda,
    .alloc = alloc_cuda,
    .release = release_cuda,
    .alloc_host = alloc_host_cuda,
    .release_host = release_host_cuda,
    .memory = memory_cuda,
    .write = write_cuda,
    .write_rows = write_rows_cuda,
    .read = read_cuda,
    .send = send_cuda,
    .fetch = fetch_cuda,
    .copy = copy_cuda,
    .fill = fill_cuda,
    .wait = wait_cuda,
    .mark = mark_cuda,
    .marks = marks_cuda,
    .side_fork = side_fork_cuda,
    .side_mark = side_mark_cuda,
    .side_join = side_join_cuda,
    .capture_begin = capture_begin_cuda,
    .capture_end = capture_end_cuda,
    .launch = launch_cuda,
    .fence_new = fence_new_cuda,
    .fence_here = fence_here_cuda,
    .fence_wait = fence_wait_cuda,
    .fence_passed = fence_passed_cuda,
    .fetch_beside = fetch_beside_cuda,
};

/* Versions of driver and runtime, and the GPUs that are visible. present: there is one, whatever
 * the status. */
static hn_status look(int *driver, int *runtime, int *n, bool *present)
{
    *n = 0;
    *present = false;
    HN_TRY(HN_CUDA(cudaDriverGetVersion(driver)));
    HN_TRY(HN_CUDA(cudaRuntimeGetVersion(runtime)));
    if (*driver == 0) return HN_FAIL(HN_ERR_UNSUPPORTED, "no NVIDIA driver on this machine");
    const cudaError_t e = cudaGetDeviceCount(n);
    if (e == cudaErrorNoDevice || (e == cudaSuccess && *n == 0)) {
        (void)cudaGetLastError();
        return HN_FAIL(HN_ERR_UNSUPPORTED, "no GPU is visible on this machine");
    }
    *present = true;
    if (e == cudaErrorInsufficientDriver) {
        (void)cudaGetLastError();
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "the driver supports CUDA %d.%d, this build needs CUDA %d.%d",
                       *driver / 1000, *driver % 1000 / 10, *runtime / 1000, *runtime % 1000 / 10);
    }
    return HN_CUDA(e);
}

hn_status hn_device_count_cuda(int *n, bool *present)
{
    int driver = 0, runtime = 0;
    return look(&driver, &runtime, n, present);
}

static hn_status find(int index, int *driver, int *runtime, bool *present)
{
    int n = 0;
    HN_TRY(look(driver, runtime, &n, present));
    if (index >= n && n == 1) return HN_FAIL(HN_ERR_ARG, "cuda:%d: there is only cuda:0", index);
    if (index >= n)
        return HN_FAIL(HN_ERR_ARG, "cuda:%d: there are cuda:0 to cuda:%d", index, n - 1);
    return HN_OK;
}

hn_status hn_device_open_cuda(int index, hn_device *d, bool *present)
{
    int driver = 0, runtime = 0;
    size_t total = 0;
    struct cudaDeviceProp prop;
    HN_TRY(find(index, &driver, &runtime, present));
    *d = (hn_device){.calls = &cuda_calls, .kind = HN_DEVICE_CUDA};
    HN_TRY(HN_CUDA(cudaSetDevice(index)));
    HN_TRY(HN_CUDA(cudaGetDeviceProperties(&prop, index)));
    snprintf(d->text, sizeof d->text,
             "cuda:%d, %s, %.1f GiB, capability %d.%d, CUDA %d.%d, driver for CUDA %d.%d", index,
             prop.name, (double)prop.totalGlobalMem / 0x1p30, prop.major, prop.minor,
             runtime / 1000, runtime % 1000 / 10, driver / 1000, driver % 1000 / 10);
    if (hn_device_probe_cuda() != HN_OK)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "cuda:%d, %s, has capability %d.%d; this build has code for %s", index,
                       prop.name, prop.major, prop.minor, HONE_CUDA_CODE);
    d->n_sms = prop.multiProcessorCount;
    HN_TRY(open_streams(d));
    HN_TRY(hn_gemm_cuda_open(&d->gemm));
    return HN_CUDA(cudaMemGetInfo(&d->free_at_open, &total));
}
