/* multiversion.h - one inner loop compiled for AVX2 and for the baseline, chosen at load time.
 *
 * Put HN_MULTIVERSION before a leaf function that holds vectorisable loops; an OpenMP region
 * must call it, not contain it (the compiler moves the region's body out of the clone). The
 * versions may round differently (AVX2 comes with fused multiply-adds and wider `omp simd` sums):
 * results can differ between machines, never between two runs on one. Off under sanitizers: their
 * run-time is not up when the choice is made.
 */
#ifndef HN_MULTIVERSION_H
#define HN_MULTIVERSION_H
#include <stdint.h> /* __GLIBC__ */

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define HN_MULTIVERSION __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define HN_MULTIVERSION
#endif

/* For helpers of such a function: what is not inlined is compiled for the baseline only. */
#if defined(__GNUC__)
#define HN_INLINE __attribute__((always_inline)) static inline
#else
#define HN_INLINE static inline
#endif

/* A loop over this many simple element operations is worth a second thread. */
#define HN_OMP_MIN 16384

#endif
