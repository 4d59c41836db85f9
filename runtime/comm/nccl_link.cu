/* NCCL is opened at run time, so that programs start where it is missing. The communicator blocks:
 * a host that enqueues returns when the work is on its stream, which a capture needs. */
#include "runtime/comm/nccl_link.h"

#include "runtime/base/alloc.h"
#include "runtime/base/cuda_check.h"

#ifndef HONE_NCCL

static hn_status missing()
{
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "several GPUs need NCCL, and this build has none: its header "
                   "nccl.h was not there");
}
hn_status hn_nccl_open(hn_nccl **) { return missing(); }
void hn_nccl_close(hn_nccl *, bool) {}
int hn_nccl_version(const hn_nccl *) { return 0; }
hn_status hn_nccl_gpu(unsigned char[HN_GPU_ID]) { return missing(); }
hn_status hn_nccl_make_id(hn_nccl *, unsigned char[HN_NCCL_ID]) { return missing(); }
hn_status hn_nccl_join(hn_nccl *, const unsigned char[HN_NCCL_ID], int, int) { return missing(); }
hn_status hn_nccl_all_reduce(hn_nccl *, const hn_collective_span *, int, hn_stream)
{
    return missing();
}
hn_status hn_nccl_reduce_scatter(hn_nccl *, const float *, float *, int64_t, hn_stream)
{
    return missing();
}
hn_status hn_nccl_all_gather(hn_nccl *, const void *, void *, size_t, hn_stream)
{
    return missing();
}
const char *hn_nccl_failure(hn_nccl *) { return nullptr; }
void hn_nccl_abort(hn_nccl *) {}

#else
#include <dlfcn.h>
#include <nccl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

/* clang-format off */
#define HN_NCCL_FUNCTIONS(X)                                                                  \
    X(GetVersion) X(GetUniqueId) X(GetErrorString) X(GetLastError)                            \
    X(CommInitRank) X(CommDestroy) X(CommAbort) X(CommGetAsyncError)                          \
    X(GroupStart) X(GroupEnd) X(AllReduce) X(ReduceScatter) X(AllGather)
/* clang-format on */

enum { OLDEST = 21800 }; /* HONE_MIN_NCCL of third_party/versions.cmake */
static_assert(HN_NCCL_ID == NCCL_UNIQUE_ID_BYTES, "an id fits");

struct hn_nccl {
    void *library;
#define X(name) decltype(&nccl##name) name;
    HN_NCCL_FUNCTIONS(X)
#undef X
    int version;
    ncclComm_t comm;
    /* Held while the communicator is used or freed. The watchdog only tries: a host that is stuck
     * inside the library is ended, not helped. */
    pthread_mutex_t lock;
    bool aborted;
    char failure[256];
};

/* ---- the library ---- */

static hn_status open_library(hn_nccl *n)
{
    static const char name[] = "libnccl.so.2";
    /* never unmapped: the driver knows the kernels in it */
    n->library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (n->library == nullptr) {
        const char *const why = dlerror();
        return HN_FAIL(
            HN_ERR_UNSUPPORTED,
            "several GPUs need NCCL, which cannot be opened (looked for %s): %s; install "
            "it or put its folder into LD_LIBRARY_PATH",
            name, why ? why : "unknown error");
    }
#define X(name)                                                                     \
    n->name = reinterpret_cast<decltype(n->name)>(dlsym(n->library, "nccl" #name)); \
    if (n->name == nullptr)                                                         \
        return HN_FAIL(HN_ERR_UNSUPPORTED, "libnccl.so.2 is too old: it has no nccl" #name);
    HN_NCCL_FUNCTIONS(X)
#undef X
    if (n->GetVersion(&n->version) != ncclSuccess || n->version < OLDEST)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "NCCL %d.%d.%d is too old: 2.18 or newer",
                       n->version / 10000, n->version / 100 % 100, n->version % 100);
    return HN_OK;
}

hn_status hn_nccl_open(hn_nccl **out)
{
    hn_nccl *n = static_cast<hn_nccl *>(hn_calloc(1, sizeof *n));
    if (n == nullptr) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for NCCL", sizeof *n);
    pthread_mutex_init(&n->lock, nullptr);
    const hn_status st = open_library(n);
    if (st != HN_OK)
        hn_nccl_close(n, false);
    else
        *out = n;
    return st;
}

/* NCCL frees a communicator when the last captured graph with its kernels has been freed, and when
 * its kernels are done: an end that somebody waits for must not hang on either, so that happens in
 * a thread of its own. */
struct ending {
    decltype(&ncclCommAbort) end;
    ncclComm_t comm;
};

static std::atomic<int> endings; /* that are under way */

static void *run_ending(void *context)
{
    const ending job = *static_cast<ending *>(context);
    hn_free(context);
    (void)job.end(job.comm);
    endings--;
    return nullptr;
}

/* A process that ends while a thread is inside the libraries must not take them down first. */
static void leave_at_once(int status, void *)
{
    if (endings == 0) return;
    (void)fflush(nullptr);
    _exit(status);
}

/* Returns when it is done, or after so many seconds: then the thread goes on alone. */
static void end_comm(decltype(&ncclCommAbort) end, ncclComm_t comm, int seconds)
{
    pthread_t thread;
    struct timespec until;
    ending *job = static_cast<ending *>(hn_calloc(1, sizeof *job));
    if (comm == nullptr || job == nullptr) {
        hn_free(job);
        return;
    }
    *job = {end, comm};
    endings++;
    if (pthread_create(&thread, nullptr, run_ending, job) != 0) {
        endings--;
        hn_free(job);
        return; /* the process that cannot start a thread ends soon */
    }
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += seconds;
    if (pthread_timedjoin_np(thread, nullptr, &until) == 0) return;
    (void)pthread_detach(thread);
    (void)on_exit(leave_at_once, nullptr); /* runs before what the libraries have registered */
}

enum { ABORT_S = 1, CLOSE_S = 30 };

void hn_nccl_close(hn_nccl *n, bool orderly)
{
    if (n == nullptr) return;
    end_comm(orderly ? n->CommDestroy : n->CommAbort, n->comm, orderly ? CLOSE_S : ABORT_S);
    if (n->library != nullptr) (void)dlclose(n->library);
    pthread_mutex_destroy(&n->lock);
    hn_free(n);
}

int hn_nccl_version(const hn_nccl *n) { return n->version; }

hn_status hn_nccl_gpu(unsigned char id[HN_GPU_ID])
{
    int device = 0;
    cudaDeviceProp properties;
    HN_TRY(HN_CUDA(cudaGetDevice(&device)));
    HN_TRY(HN_CUDA(cudaGetDeviceProperties(&properties, device)));
    static_assert(sizeof properties.uuid == HN_GPU_ID, "a UUID fits");
    memcpy(id, &properties.uuid, HN_GPU_ID);
    return HN_OK;
}

/* ---- the communicator ---- */

static hn_status status_of(const hn_nccl *n, ncclResult_t r, const char *call)
{
    if (r == ncclSuccess) return HN_OK;
    const cudaError_t e = cudaGetLastError(); /* must not surface again at the next check */
    const char *const why = n->GetLastError(n->comm);
    const hn_status st = e == cudaErrorMemoryAllocation                 ? HN_ERR_MEMORY
                         : r == ncclRemoteError || r == ncclSystemError ? HN_ERR_COMM
                                                                        : HN_ERR_CUDA;
    return HN_FAIL(st, "nccl%s: %s%s%s", call, n->GetErrorString(r), why && why[0] ? ": " : "",
                   why ? why : "");
}

/* NCCL_COMM_BLOCKING=0 of the environment makes calls return before they are done. */
static ncclResult_t settle(const hn_nccl *n, ncclResult_t r)
{
    const struct timespec nap = {0, 200000};
    while (r == ncclInProgress && n->comm != nullptr) {
        nanosleep(&nap, nullptr);
        const ncclResult_t asked = n->CommGetAsyncError(n->comm, &r);
        if (asked != ncclSuccess) return asked;
    }
    return r;
}

hn_status hn_nccl_make_id(hn_nccl *n, unsigned char id[HN_NCCL_ID])
{
    ncclUniqueId made;
    HN_TRY(status_of(n, n->GetUniqueId(&made), "GetUniqueId"));
    memcpy(id, made.internal, HN_NCCL_ID);
    return HN_OK;
}

/* The watchdog knows the communicator once it works. */
hn_status hn_nccl_join(hn_nccl *n, const unsigned char id[HN_NCCL_ID], int rank, int ranks)
{
    ncclUniqueId shared;
    ncclComm_t comm = nullptr;
    memcpy(shared.internal, id, HN_NCCL_ID);
    ncclResult_t r = n->CommInitRank(&comm, ranks, shared, rank);
    pthread_mutex_lock(&n->lock);
    n->comm = comm;
    pthread_mutex_unlock(&n->lock);
    r = settle(n, r);
    return status_of(n, r, "CommInitRank");
}

static hn_status lock(hn_nccl *n)
{
    pthread_mutex_lock(&n->lock);
    if (!n->aborted) return HN_OK;
    pthread_mutex_unlock(&n->lock);
    return HN_FAIL(HN_ERR_COMM, "NCCL's communicator was aborted: another rank is gone");
}

static hn_status unlock(hn_nccl *n, ncclResult_t r, const char *call)
{
    const hn_status st = status_of(n, settle(n, r), call);
    pthread_mutex_unlock(&n->lock);
    return st;
}

hn_status hn_nccl_all_reduce(hn_nccl *n, const hn_collective_span *span, int n_spans,
                             hn_stream stream)
{
    HN_TRY(lock(n));
    ncclResult_t r = n->GroupStart();
    for (int i = 0; i < n_spans; i++)
        for (int64_t c = 0; c < (span[i].copies > 1 ? span[i].copies : 1); c++) {
            float *const x = span[i].data + c * span[i].stride;
            if (r == ncclSuccess)
                r = n->AllReduce(x, x, (size_t)span[i].n, ncclFloat32, ncclSum, n->comm, stream);
        }
    const ncclResult_t end = n->GroupEnd();
    return unlock(n, r == ncclSuccess || r == ncclInProgress ? end : r, "AllReduce");
}

hn_status hn_nccl_reduce_scatter(hn_nccl *n, const float *from, float *to, int64_t count,
                                 hn_stream stream)
{
    HN_TRY(lock(n));
    const ncclResult_t r =
        n->ReduceScatter(from, to, (size_t)count, ncclFloat32, ncclSum, n->comm, stream);
    return unlock(n, r, "ReduceScatter");
}

hn_status hn_nccl_all_gather(hn_nccl *n, const void *from, void *to, size_t bytes, hn_stream stream)
{
    HN_TRY(lock(n));
    return unlock(n, n->AllGather(from, to, bytes, ncclUint8, n->comm, stream), "AllGather");
}

/* ---- for the watchdog ---- */

const char *hn_nccl_failure(hn_nccl *n)
{
    ncclResult_t r = ncclSuccess;
    if (pthread_mutex_trylock(&n->lock) != 0) return nullptr; /* the next beat asks again */
    if (n->comm != nullptr && !n->aborted && n->CommGetAsyncError(n->comm, &r) != ncclSuccess)
        r = ncclInternalError;
    const bool bad = r != ncclSuccess && r != ncclInProgress;
    if (bad)
        snprintf(n->failure, sizeof n->failure, "NCCL: %s: %s", n->GetErrorString(r),
                 n->GetLastError(n->comm));
    pthread_mutex_unlock(&n->lock);
    return bad ? n->failure : nullptr;
}

void hn_nccl_abort(hn_nccl *n)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ABORT_S;
    if (pthread_mutex_timedlock(&n->lock, &until) != 0) return;
    const ncclComm_t comm = n->comm;
    n->comm = nullptr;
    n->aborted = true;
    pthread_mutex_unlock(&n->lock); /* whose host may go on from here */
    end_comm(n->CommAbort, comm, ABORT_S);
}

#endif
