/* stream.h - the type of cudaStream_t, without the CUDA headers; and how CUDA functions are
 * declared.
 *
 * A build without CUDA has no such functions: there the declarations are weak, so that rows of the
 * registry may name them and programs link. Nobody calls them: hn_device_open refuses a GPU first.
 */
#ifndef HN_STREAM_H
#define HN_STREAM_H
#include "runtime/base/status.h"

typedef struct CUstream_st *hn_stream; /* NULL: CUDA's default stream */

#ifdef HONE_CUDA
#define HN_CUDA_FUNCTION
#else
#define HN_CUDA_FUNCTION __attribute__((weak))
#endif
#endif
