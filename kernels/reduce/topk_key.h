/* topk_key.h - scores as unsigned numbers in the same order (for the sources of topk only). */
#ifndef HN_TOPK_KEY_H
#define HN_TOPK_KEY_H
#include <stdint.h>

#ifdef __CUDACC__
#define HN_TOPK_INLINE_ static __host__ __device__ __forceinline__
#else
#define HN_TOPK_INLINE_ static inline
#endif

/* From the bits of a float: NaN is 0, -Inf the least above it, -0 is 0. */
HN_TOPK_INLINE_ uint32_t hn_topk_key_(uint32_t bits)
{
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0;
    if (bits == 0x80000000u) bits = 0;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

#endif
