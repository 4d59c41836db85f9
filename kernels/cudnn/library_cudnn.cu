/* The library is found and opened once; its handle changes streams with its callers. */
#include "kernels/cudnn/cudnn_library.h"

#include <stdio.h>

#include "runtime/base/alloc.h"

#ifndef HONE_CUDNN

hn_status hn_cudnn_open(hn_cudnn **)
{
    return HN_FAIL(HN_ERR_UNSUPPORTED, "this build has no cuDNN: its headers were not there");
}

void hn_cudnn_close(hn_cudnn *) {}
const char *hn_cudnn_version(const hn_cudnn *) { return "none"; }

#else
#include <dlfcn.h>

#include "kernels/cudnn/cuda_cudnn.h"

/* Before 9.11: wrong attention backwards (9.10.0, 9.10.1), another mask value, sums that want
 * clearing. */
enum { OLDEST = 91100 };

static hn_status status_of(const hn_cudnn *c, cudnnStatus_t s, const char *call)
{
    char why[256] = "";
    if (s == CUDNN_STATUS_SUCCESS) return HN_OK;
    c->GetLastErrorString(why, sizeof why);
    const cudaError_t e = cudaGetLastError(); /* must not surface again at the next check */
    const bool memory = s == CUDNN_STATUS_ALLOC_FAILED || e == cudaErrorMemoryAllocation;
    return HN_FAIL(memory ? HN_ERR_MEMORY : HN_ERR_CUDA, "%s: %s: %s", call, c->GetErrorString(s),
                   why);
}

static hn_status open_library(hn_cudnn *c)
{
    static const char name[] = "libcudnn.so.9";
    /* never unmapped: the driver knows the kernels in it */
    c->library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (c->library == nullptr) {
        const char *const why = dlerror();
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "cuDNN cannot be opened (looked for %s): %s; install cuDNN 9 or put its "
                       "folder into LD_LIBRARY_PATH",
                       name, why ? why : "unknown error");
    }
#define X(name)                                                                      \
    c->name = reinterpret_cast<decltype(c->name)>(dlsym(c->library, "cudnn" #name)); \
    if (c->name == nullptr)                                                          \
        return HN_FAIL(HN_ERR_UNSUPPORTED, "libcudnn.so.9 is damaged: it has no cudnn" #name);
    HN_CUDNN_FUNCTIONS(X)
#undef X
    const size_t version = c->GetVersion();
    snprintf(c->version, sizeof c->version, "%zu.%zu.%zu", version / 10000, version / 100 % 100,
             version % 100);
    if (version < OLDEST)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "cuDNN %s is too old: 9.11 or newer", c->version);
    return HN_OK;
}

static hn_status open_handle(hn_cudnn *c)
{
    const cudnnStatus_t s = c->Create(&c->handle);
    if (s == CUDNN_STATUS_SUCCESS) return HN_OK;
    const hn_status st = status_of(c, s, "cudnnCreate");
    return st == HN_ERR_MEMORY ? st
                               : HN_FAIL(HN_ERR_UNSUPPORTED, "cuDNN %s does not start: %s",
                                         c->version, hn_last_text());
}

hn_status hn_cudnn_open(hn_cudnn **out)
{
    hn_cudnn *c = static_cast<hn_cudnn *>(hn_calloc(1, sizeof *c));
    if (c == nullptr) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for cuDNN's functions", sizeof *c);
    hn_status st = open_library(c);
    if (st == HN_OK) st = open_handle(c);
    if (st != HN_OK) {
        hn_cudnn_close(c);
        return st;
    }
    *out = c;
    return HN_OK;
}

void hn_cudnn_close(hn_cudnn *c)
{
    if (c == nullptr) return;
    if (c->handle != nullptr) (void)c->Destroy(c->handle);
    if (c->library != nullptr) (void)dlclose(c->library);
    hn_free(c);
}

const char *hn_cudnn_version(const hn_cudnn *c) { return c->version; }

hn_status hn_cudnn_use_stream(hn_cudnn *c, hn_stream stream)
{
    if (c->stream == stream) return HN_OK; /* a fresh handle has the default stream: NULL */
    HN_TRY(status_of(c, c->SetStream(c->handle, stream), "cudnnSetStream"));
    c->stream = stream;
    return HN_OK;
}

hn_status hn_cudnn_execute(const hn_cudnn *c, cudnnBackendDescriptor_t plan, int n,
                           const int64_t *id, void *const *pointer, void *workspace)
{
    cudnnBackendDescriptor_t pack = nullptr;
    cudnnStatus_t s = c->BackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (s == CUDNN_STATUS_SUCCESS)
        s = c->BackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n,
                                   id);
    if (s == CUDNN_STATUS_SUCCESS)
        s = c->BackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
                                   n, pointer);
    if (s == CUDNN_STATUS_SUCCESS)
        s = c->BackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1,
                                   &workspace);
    if (s == CUDNN_STATUS_SUCCESS) s = c->BackendFinalize(pack);
    if (s == CUDNN_STATUS_SUCCESS) s = c->BackendExecute(c->handle, plan, pack);
    const hn_status st = status_of(c, s, "cudnnBackendExecute");
    if (pack != nullptr) (void)c->BackendDestroyDescriptor(pack);
    return st;
}
#endif
