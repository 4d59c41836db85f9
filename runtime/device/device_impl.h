/* device_impl.h - what a kind of device does; for runtime/device only. */
#ifndef HN_DEVICE_IMPL_H
#define HN_DEVICE_IMPL_H
#include "runtime/device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    void (*close)(hn_device *d);
    hn_status (*alloc)(hn_device *d, size_t bytes, void **out);
    void (*release)(hn_device *d, void *p);
    hn_status (*alloc_host)(hn_device *d, size_t bytes, void **out);
    void (*release_host)(hn_device *d, void *p);
    hn_status (*memory)(const hn_device *d, size_t *free_bytes, size_t *total_bytes);
    hn_status (*write)(hn_device *d, void *to, const void *from, size_t bytes);
    hn_status (*write_rows)(hn_device *d, void *to, size_t to_pitch, const void *from,
                            size_t from_pitch, size_t row_bytes, size_t rows);
    hn_status (*read)(hn_device *d, void *to, const void *from, size_t bytes);
    hn_status (*send)(hn_device *d, void *to, const void *from, size_t bytes);
    hn_status (*fetch)(hn_device *d, void *to, const void *from, size_t bytes);
    hn_status (*copy)(hn_device *d, void *to, const void *from, size_t bytes);
    hn_status (*fill)(hn_device *d, void *p, int byte, size_t bytes);
    hn_status (*wait)(hn_device *d);
    hn_status (*mark)(hn_device *d, int64_t i);
    hn_status (*marks)(hn_device *d, int64_t n, double *ms);
    hn_status (*side_fork)(hn_device *d, hn_side_stream s); /* the last 11: NULL on the CPU */
    hn_status (*side_mark)(hn_device *d, hn_side_stream s, int64_t i);
    hn_status (*side_join)(hn_device *d, int64_t i);
    hn_status (*capture_begin)(hn_device *d);
    hn_status (*capture_end)(hn_device *d, hn_device_graph **out);
    hn_status (*launch)(hn_device *d, const hn_device_graph *g);
    hn_status (*fence_new)(hn_device_fence *m);
    hn_status (*fence_here)(hn_device_fence *m);
    hn_status (*fence_wait)(hn_device_fence *m);
    hn_status (*fence_passed)(const hn_device_fence *m, bool *passed);
    hn_status (*fetch_beside)(hn_device *d, void *to, const void *from, size_t bytes,
                              hn_device_fence *m);
} hn_device_calls;

struct hn_device {
    const hn_device_calls *calls;
    hn_device_kind kind;
    char text[384];
    hn_stream stream, side[HN_SIDE_STREAMS];
    int n_sms;                               /* multiprocessors */
    struct CUevent_st *forked, **side_marks; /* [n_side_marks] */
    int64_t n_side_marks;
    hn_gemm_cuda *gemm;
    hn_cudnn *cudnn; /* this and the next two: NULL until they are asked for */
    hn_attention_cudnn *attention;
    hn_conv2d_cudnn *conv2d;
    const hn_collectives *collectives; /* NULL: one rank */
    void *workspace[2];                /* of the stream, of the side stream; NULL: not taken */
    size_t workspace_each;             /* bytes */
    void **outgrown; /* [n_outgrown] smaller ones, which captured graphs still know */
    int64_t n_outgrown;
    size_t workspace_taken; /* bytes of them all */
    void *marks;            /* cudaEvent_t [n_marks]; on the CPU int64_t: nanoseconds */
    int64_t n_marks;        /* that there is room for */
    int64_t n_made;         /* marks 0 .. n_made-1 have been made */
    size_t free_at_open;    /* bytes, once context and library handles exist */
};

struct hn_device_fence {
    hn_device *device;
    struct CUevent_st *event; /* CUDA's cudaEvent_t; NULL on the CPU */
};

/* device_cuda.c. *present: whether a driver and a GPU are there at all; d is zero on entry and may
 * be closed after an error. */
HN_CUDA_FUNCTION hn_status hn_device_open_cuda(int index, hn_device *d, bool *present);
HN_CUDA_FUNCTION hn_status hn_device_count_cuda(int *n, bool *present);
HN_CUDA_FUNCTION void hn_device_graph_free_cuda(hn_device_graph *g);
HN_CUDA_FUNCTION void hn_device_event_free_cuda(struct CUevent_st *event);
/* device_probe.cu: whether this build's kernels run on the current GPU. */
HN_CUDA_FUNCTION hn_status hn_device_probe_cuda(void);

#ifdef __cplusplus
}
#endif
#endif
