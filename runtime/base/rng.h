/* rng.h - counter-based random numbers (Philox 4x32-10, Salmon et al., SC 2011).
 *
 * A number is a function of (seed, optimizer step, hash of the operation's
 * stable name, row, column) and of nothing else: not of threads, blocks, ranks
 * or micro-batching. `row` is the global row inside the optimizer step, so the
 * same sample sees the same mask however the step is cut. Host and device code
 * share this header; the numbers are the same bits on both.
 */
#ifndef HN_RNG_H
#define HN_RNG_H
#include <stdint.h>

#ifdef __CUDACC__
#define HN_HOST_DEVICE __host__ __device__
#else
#define HN_HOST_DEVICE
#endif

/* FNV-1a, 64 bits: the stable hash of an operation's or parameter's name. */
static inline uint64_t hn_hash_name(const char *s)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *s; s++) h = (h ^ (uint64_t)(unsigned char)*s) * 0x100000001b3u;
    return h;
}

/* What changes from step to step, read at run time from memory (the head of the step block), so
 * that a captured graph stays valid. */
typedef struct {
    uint64_t seed, step;
    int64_t row_offset; /* global row, inside the optimizer step, of this call's row 0 */
} hn_rng_state;

typedef struct {
    uint32_t k0, k1; /* Philox key, from seed and operation */
    uint32_t step;
} hn_rng;

static HN_HOST_DEVICE inline hn_rng hn_rng_make(uint64_t seed, uint64_t step, uint64_t op)
{
    uint64_t z = seed + 0x9e3779b97f4a7c15u * (op | 1u) + (op >> 1);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u; /* SplitMix64 finaliser */
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    hn_rng r;
    r.k0 = (uint32_t)z;
    r.k1 = (uint32_t)(z >> 32);
    r.step = (uint32_t)step;
    return r;
}

static HN_HOST_DEVICE inline void hn_philox_round_(uint32_t c[4], uint32_t k0, uint32_t k1)
{
    const uint64_t a = (uint64_t)0xd2511f53u * c[0], b = (uint64_t)0xcd9e8d57u * c[2];
    const uint32_t c0 = (uint32_t)(b >> 32) ^ c[1] ^ k0, c2 = (uint32_t)(a >> 32) ^ c[3] ^ k1;
    c[0] = c0;
    c[1] = (uint32_t)b;
    c[2] = c2;
    c[3] = (uint32_t)a;
}

static HN_HOST_DEVICE inline void hn_philox_(uint32_t c[4], uint32_t k0, uint32_t k1)
{
    for (int round = 0; round < 10; round++) {
        hn_philox_round_(c, k0, k1);
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
}

/* The four 32-bit words of columns 4*block .. 4*block+3 of a row. */
static HN_HOST_DEVICE inline void hn_rng_block(hn_rng r, uint64_t row, uint32_t block,
                                               uint32_t out[4])
{
    out[0] = block;
    out[1] = (uint32_t)row;
    out[2] = (uint32_t)(row >> 32);
    out[3] = r.step;
    hn_philox_(out, r.k0, r.k1);
}

static HN_HOST_DEVICE inline uint32_t hn_rng_u32(hn_rng r, uint64_t row, uint32_t col)
{
    uint32_t w[4];
    hn_rng_block(r, row, col / 4, w);
    return w[col % 4];
}

/* A word as a float in [0, 1), a multiple of 2^-24. */
static HN_HOST_DEVICE inline float hn_rng_unit(uint32_t word)
{
    return (float)(word >> 8) * 0x1p-24f;
}

/* Dropout: element (row, col) is kept when its word is at or above this threshold.
 * p in [0, 1); the kept share is exact to 2^-32. */
static inline uint32_t hn_rng_drop_threshold(double p) { return (uint32_t)(p * 4294967296.0); }

/* Uniform integer in [0, n), n > 0: Lemire's multiplication on 64 bits; bias below 2^-32 for
 * n < 2^32. */
static inline uint64_t hn_rng_below(hn_rng r, uint64_t row, uint32_t col, uint64_t n)
{
    uint32_t w[4];
    hn_rng_block(r, row, col, w);
    const uint64_t x = (uint64_t)w[0] << 32 | w[1];
#ifdef __SIZEOF_INT128__
    __extension__ typedef unsigned __int128 u128;
    return (uint64_t)((u128)x * n >> 64);
#else
    return x % n;
#endif
}
#endif
