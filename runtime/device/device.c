#include "runtime/device/device.h"

#include <errno.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/device/device_impl.h"

enum { CPU_ALIGN = 256 };

/* ---- the CPU ---- */

static void close_cpu(hn_device *d) { hn_free(d->marks); }

static hn_status alloc_cpu(hn_device *d, size_t bytes, void **out)
{
    (void)d;
    void *p = hn_aligned_alloc(CPU_ALIGN, bytes);
    if (p == NULL) return HN_FAIL(HN_ERR_MEMORY, "%.3f GiB of host memory", (double)bytes / 0x1p30);
    memset(p, 0, bytes);
    *out = p;
    return HN_OK;
}

static void release_cpu(hn_device *d, void *p)
{
    (void)d;
    hn_free(p);
}

static hn_status memory_cpu(const hn_device *d, size_t *free_bytes, size_t *total_bytes)
{
    (void)d;
    *free_bytes = *total_bytes = 0;
    return HN_OK;
}

static hn_status copy_cpu(hn_device *d, void *to, const void *from, size_t bytes)
{
    (void)d;
    memcpy(to, from, bytes);
    return HN_OK;
}

static hn_status copy_rows_cpu(hn_device *d, void *to, size_t to_pitch, const void *from,
                               size_t from_pitch, size_t row_bytes, size_t rows)
{
    (void)d;
    for (size_t i = 0; i < rows; i++)
        memcpy((char *)to + i * to_pitch, (const char *)from + i * from_pitch, row_bytes);
    return HN_OK;
}

static hn_status fill_cpu(hn_device *d, void *p, int byte, size_t bytes)
{
    (void)d;
    memset(p, byte, bytes);
    return HN_OK;
}

static hn_status wait_cpu(hn_device *d)
{
    (void)d;
    return HN_OK;
}

static hn_status mark_cpu(hn_device *d, int64_t i)
{
    if (i >= d->n_marks) {
        const int64_t n = 2 * i + 64;
        int64_t *marks = hn_realloc(d->marks, (size_t)n * sizeof *marks);
        if (marks == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %lld marks", (long long)n);
        d->marks = marks;
        d->n_marks = n;
    }
    ((int64_t *)d->marks)[i] = hn_clock_ns();
    return HN_OK;
}

static hn_status marks_cpu(hn_device *d, int64_t n, double *ms)
{
    const int64_t *marks = d->marks;
    for (int64_t i = 0; i < n; i++) ms[i] = 1e-6 * (double)(marks[i + 1] - marks[i]);
    return HN_OK;
}

static const hn_device_calls cpu_calls = {
    .close = close_cpu,
    .alloc = alloc_cpu,
    .release = release_cpu,
    .alloc_host = alloc_cpu,
    .release_host = release_cpu,
    .memory = memory_cpu,
    .write = copy_cpu,
    .write_rows = copy_rows_cpu,
    .read = copy_cpu,
    .send = copy_cpu,
    .fetch = copy_cpu,
    .copy = copy_cpu,
    .fill = fill_cpu,
    .wait = wait_cpu,
    .mark = mark_cpu,
    .marks = marks_cpu,
};

static void open_cpu(hn_device *d, const char *why)
{
    *d = (hn_device){.calls = &cpu_calls, .kind = HN_DEVICE_CPU};
    const int threads = omp_get_max_threads();
    snprintf(d->text, sizeof d->text, "cpu, %d thread%s%s%s%s", threads, threads == 1 ? "" : "s",
             why[0] ? " (" : "", why, why[0] ? ")" : "");
}

/* ---- a GPU that is not there ---- */

static hn_status memory_absent(const hn_device *d, size_t *free_bytes, size_t *total_bytes)
{
    *free_bytes = *total_bytes = d->free_at_open;
    return HN_OK;
}

static hn_status alloc_absent(hn_device *d, size_t bytes, void **out)
{
    (void)out;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%.3f GiB: nothing can be taken on %s",
                   (double)bytes / 0x1p30, d->text);
}

/* Without memory nobody comes as far as the calls that are missing here. */
static const hn_device_calls absent_calls = {
    .close = close_cpu,
    .alloc = alloc_absent,
    .release = release_cpu,
    .alloc_host = alloc_absent,
    .release_host = release_cpu,
    .memory = memory_absent,
    .wait = wait_cpu,
};

hn_status hn_device_open_absent(size_t memory, const char *why, hn_device **out)
{
#ifdef HONE_CUDA
    hn_device *d = hn_calloc(1, sizeof *d);
    if (d == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a device", sizeof *d);
    *d = (hn_device){.calls = &absent_calls, .kind = HN_DEVICE_CUDA, .free_at_open = memory};
    snprintf(d->text, sizeof d->text, "a GPU that is not here (%s): for plans only", why);
    *out = d;
    return HN_OK;
#else
    (void)memory, (void)why, (void)out;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "this build has no CUDA code");
#endif
}

/* ---- opening ---- */

static hn_status open_gpu(int index, hn_device *d, bool *present)
{
#ifdef HONE_CUDA
    const hn_status st = hn_device_open_cuda(index, d, present);
    if (st != HN_OK && d->calls != NULL) d->calls->close(d);
    return st;
#else
    (void)index, (void)d;
    *present = false;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "this build has no CUDA code");
#endif
}

/* A GPU that is there but cannot be used is an error: training on the CPU instead would be a
 * surprise of days. */
static hn_status open_auto(hn_device *d)
{
    bool present = false;
    char why[128];
    const hn_status st = open_gpu(0, d, &present);
    if (st == HN_OK) return HN_OK;
    if (present) return HN_FAIL(st, "%s; --device cpu trains without the GPU", hn_last_text());
    snprintf(why, sizeof why, "%s", hn_last_text());
    open_cpu(d, why);
    return HN_OK;
}

static hn_status open_spec(const char *spec, hn_device *d)
{
    bool present;
    if (strcmp(spec, "auto") == 0) return open_auto(d);
    if (strcmp(spec, "cpu") == 0) {
        open_cpu(d, "");
        return HN_OK;
    }
    if (strcmp(spec, "cuda") == 0) return open_gpu(0, d, &present);
    if (strncmp(spec, "cuda:", 5) == 0 && spec[5] >= '0' && spec[5] <= '9') {
        char *end;
        errno = 0;
        const long index = strtol(spec + 5, &end, 10);
        if (*end == '\0' && errno == 0 && index < 1024) return open_gpu((int)index, d, &present);
    }
    return HN_FAIL(HN_ERR_ARG, "device '%s': it is auto, cpu, cuda or cuda:N", spec);
}

hn_status hn_device_open(const char *spec, hn_device **out)
{
    hn_device *d = hn_calloc(1, sizeof *d);
    if (d == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a device", sizeof *d);
    const hn_status st = open_spec(spec, d);
    if (st != HN_OK)
        hn_free(d);
    else
        *out = d;
    return st;
}

hn_status hn_device_count(int *n, char *why, size_t size)
{
    int count = 0;
    bool present = false;
#ifdef HONE_CUDA
    const hn_status st = hn_device_count_cuda(&count, &present);
#else
    const hn_status st = HN_FAIL(HN_ERR_UNSUPPORTED, "this build has no CUDA code");
#endif
    if (st != HN_OK && (present || st != HN_ERR_UNSUPPORTED)) return st;
    *n = count;
    snprintf(why, size, "%s", st == HN_OK ? "" : hn_last_text());
    return HN_OK;
}

void hn_device_close(hn_device *d)
{
    if (d == NULL) return;
    for (int k = 0; k < 2; k++) hn_device_release(d, d->workspace[k]);
    for (int64_t i = 0; i < d->n_outgrown; i++) hn_device_release(d, d->outgrown[i]);
    hn_free(d->outgrown);
    d->calls->close(d);
    hn_free(d);
}

/* ---- what every kind has ---- */

hn_device_kind hn_device_kind_of(const hn_device *d) { return d->kind; }
const char *hn_device_text(const hn_device *d) { return d->text; }
hn_stream hn_device_stream(const hn_device *d) { return d->stream; }
hn_stream hn_device_side_stream(const hn_device *d, hn_side_stream s) { return d->side[s]; }
hn_gemm_cuda *hn_device_gemm(const hn_device *d) { return d->gemm; }

void hn_device_set_collectives(hn_device *d, const hn_collectives *c) { d->collectives = c; }
const hn_collectives *hn_device_collectives(const hn_device *d) { return d->collectives; }

static hn_status no_side(const hn_device *d)
{
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: only a GPU has side streams", d->text);
}

hn_status hn_device_side_fork(hn_device *d, hn_side_stream s)
{
    return d->calls->side_fork ? d->calls->side_fork(d, s) : no_side(d);
}

hn_status hn_device_side_mark(hn_device *d, hn_side_stream s, int64_t i)
{
    return d->calls->side_mark ? d->calls->side_mark(d, s, i) : no_side(d);
}

hn_status hn_device_side_join(hn_device *d, int64_t i)
{
    return d->calls->side_join ? d->calls->side_join(d, i) : no_side(d);
}

void hn_device_products(const hn_device *d, bool side, int sms)
{
    if (d->gemm == NULL || d->workspace[side] == NULL) return;
    const bool bounds = sms > 0 && sms < d->n_sms;
    hn_gemm_cuda_workspace(d->gemm, d->workspace[side], d->workspace_each);
    hn_gemm_cuda_sms(d->gemm, !bounds ? 0 : side ? sms : d->n_sms - sms);
}

hn_attention_cudnn *hn_device_attention(const hn_device *d) { return d->attention; }
hn_conv2d_cudnn *hn_device_conv2d(const hn_device *d) { return d->conv2d; }

static hn_status open_cudnn(hn_device *d)
{
    if (d->cudnn == NULL) HN_TRY(hn_cudnn_open(&d->cudnn));
    if (d->attention == NULL) HN_TRY(hn_attention_cudnn_open(d->cudnn, &d->attention));
    return hn_conv2d_cudnn_open(d->cudnn, &d->conv2d);
}

hn_status hn_device_count_taken(hn_device *d, size_t free_before)
{
    size_t after = 0, total = 0;
    HN_TRY(d->calls->memory(d, &after, &total));
    const size_t taken = free_before > after ? free_before - after : 0;
    d->free_at_open -= taken < d->free_at_open ? taken : d->free_at_open;
    return HN_OK;
}

hn_status hn_device_open_cudnn(hn_device *d)
{
    size_t before = 0, total = 0;
    if (d->conv2d != NULL) return HN_OK;
    if (d->kind != HN_DEVICE_CUDA)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "cuDNN needs a GPU; the device is %s", d->text);
    if (d->calls == &absent_calls)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "what cuDNN would take is known on the GPU itself only");
    HN_TRY(d->calls->memory(d, &before, &total));
    HN_TRY(open_cudnn(d));
    return hn_device_count_taken(d, before);
}

size_t hn_device_workspace_taken(const hn_device *d) { return d->workspace_taken; }

static hn_status keep_outgrown(hn_device *d, void *p)
{
    void **more = hn_realloc(d->outgrown, (size_t)(d->n_outgrown + 1) * sizeof *more);
    if (more == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a list of workspaces");
    d->outgrown = more;
    more[d->n_outgrown++] = p;
    return HN_OK;
}

hn_status hn_device_take_workspace(hn_device *d, size_t bytes, bool side)
{
    if (d->kind != HN_DEVICE_CUDA) return HN_OK;
    const bool grows = bytes > d->workspace_each;
    const size_t each = grows ? bytes : d->workspace_each;
    for (int k = 0; k < 2; k++) {
        void *fresh;
        if (d->workspace[k] == NULL ? k == 1 && !side : !grows) continue;
        HN_TRY(d->calls->alloc(d, each, &fresh));
        if (d->workspace[k] != NULL) HN_TRY(keep_outgrown(d, d->workspace[k]));
        d->workspace[k] = fresh;
        d->workspace_taken += each;
    }
    d->workspace_each = each;
    hn_gemm_cuda_workspace(d->gemm, d->workspace[0], each);
    return HN_OK;
}

hn_status hn_device_alloc(hn_device *d, size_t bytes, void **out)
{
    return d->calls->alloc(d, bytes, out);
}

void hn_device_release(hn_device *d, void *p)
{
    if (p != NULL) d->calls->release(d, p);
}

hn_status hn_device_alloc_host(hn_device *d, size_t bytes, void **out)
{
    return d->calls->alloc_host(d, bytes, out);
}

void hn_device_release_host(hn_device *d, void *p)
{
    if (p != NULL) d->calls->release_host(d, p);
}

hn_status hn_device_memory(const hn_device *d, size_t *free_bytes, size_t *total_bytes)
{
    return d->calls->memory(d, free_bytes, total_bytes);
}

hn_status hn_device_used(const hn_device *d, size_t *bytes)
{
    size_t free_bytes, total_bytes;
    HN_TRY(d->calls->memory(d, &free_bytes, &total_bytes));
    *bytes = d->free_at_open > free_bytes ? d->free_at_open - free_bytes : 0;
    return HN_OK;
}

hn_status hn_device_write(hn_device *d, void *to, const void *from, size_t bytes)
{
    return d->calls->write(d, to, from, bytes);
}

hn_status hn_device_write_rows(hn_device *d, void *to, size_t to_pitch, const void *from,
                               size_t from_pitch, size_t row_bytes, size_t rows)
{
    return d->calls->write_rows(d, to, to_pitch, from, from_pitch, row_bytes, rows);
}

hn_status hn_device_read(hn_device *d, void *to, const void *from, size_t bytes)
{
    return d->calls->read(d, to, from, bytes);
}

hn_status hn_device_send(hn_device *d, void *to, const void *from, size_t bytes)
{
    return d->calls->send(d, to, from, bytes);
}

hn_status hn_device_fetch(hn_device *d, void *to, const void *from, size_t bytes)
{
    return d->calls->fetch(d, to, from, bytes);
}

hn_status hn_device_copy(hn_device *d, void *to, const void *from, size_t bytes)
{
    return d->calls->copy(d, to, from, bytes);
}

hn_status hn_device_fill(hn_device *d, void *p, int byte, size_t bytes)
{
    return d->calls->fill(d, p, byte, bytes);
}

hn_status hn_device_wait(hn_device *d) { return d->calls->wait(d); }

hn_status hn_device_fence_new(hn_device *d, hn_device_fence **out)
{
    hn_device_fence *m = hn_calloc(1, sizeof *m);
    if (m == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a fence", sizeof *m);
    m->device = d;
    const hn_status st = d->calls->fence_new ? d->calls->fence_new(m) : HN_OK;
    if (st != HN_OK)
        hn_free(m);
    else
        *out = m;
    return st;
}

void hn_device_fence_free(hn_device_fence *m)
{
    if (m == NULL) return;
    if (m->event != NULL) hn_device_event_free_cuda(m->event);
    hn_free(m);
}

hn_status hn_device_fence_here(hn_device_fence *m)
{
    return m->device->calls->fence_here ? m->device->calls->fence_here(m) : HN_OK;
}

hn_status hn_device_fence_wait(hn_device_fence *m)
{
    return m->device->calls->fence_wait ? m->device->calls->fence_wait(m) : HN_OK;
}

hn_status hn_device_fence_passed(const hn_device_fence *m, bool *passed)
{
    *passed = true;
    return m->device->calls->fence_passed ? m->device->calls->fence_passed(m, passed) : HN_OK;
}

hn_status hn_device_fetch_behind(hn_device *d)
{
    return d->calls->side_fork ? d->calls->side_fork(d, HN_SIDE_FETCH) : HN_OK;
}

hn_status hn_device_fetch_beside(hn_device *d, void *to, const void *from, size_t bytes,
                                 hn_device_fence *m)
{
    if (d->calls->fetch_beside) return d->calls->fetch_beside(d, to, from, bytes, m);
    return d->calls->fetch(d, to, from, bytes);
}

hn_status hn_device_mark(hn_device *d, int64_t i)
{
    HN_TRY(d->calls->mark(d, i));
    d->n_made = i + 1;
    return HN_OK;
}

hn_status hn_device_marks(hn_device *d, int64_t n, double *ms)
{
    if (n >= d->n_made) return HN_FAIL(HN_ERR_ARG, "mark %lld was never made", (long long)n);
    return d->calls->marks(d, n, ms);
}

static hn_status no_capture(const hn_device *d)
{
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: only a GPU captures graphs", d->text);
}

hn_status hn_device_capture_begin(hn_device *d)
{
    return d->calls->capture_begin ? d->calls->capture_begin(d) : no_capture(d);
}

hn_status hn_device_capture_end(hn_device *d, hn_device_graph **out)
{
    return d->calls->capture_end ? d->calls->capture_end(d, out) : no_capture(d);
}

hn_status hn_device_launch(hn_device *d, const hn_device_graph *g)
{
    return d->calls->launch ? d->calls->launch(d, g) : no_capture(d);
}

void hn_device_graph_free(hn_device_graph *g)
{
    if (g != NULL) hn_device_graph_free_cuda(g);
}
