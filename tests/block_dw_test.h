/* block_dw_test.h - a pool of chosen blocks, for tests of the kernels that read one. */
#ifndef HN_BLOCK_DW_TEST_H
#define HN_BLOCK_DW_TEST_H
#include <algorithm>
#include <numeric>

#include "kernel_test.h"
#include "kernels/sparse/block_dw.h"
#ifdef HONE_CUDA
#include "gemm_cuda_test.h"
#endif

namespace {

struct Shape {
    hn_dtype dtype;
    int64_t rows, out, in, br, bc;
    int64_t count, capacity;
    bool together; /* blocks are neighbours; else spread over the matrix */

    hn_block_shape block() const { return {br, bc}; }
};

[[maybe_unused]] std::string name_of(const Shape &s)
{
    return case_name("r", s.rows, "_", s.out, "x", s.in, "_b", s.br, "x", s.bc, "_n", s.count, "of",
                     s.capacity, s.together ? "_together" : "", s.dtype);
}

/* A matrix's span in a pool, behind another's and before unused slots. */
struct Pool {
    static constexpr int32_t kBlocksBefore = 3, kBlocksBehind = 2;
    static constexpr int64_t kValuesBefore = 7, kValuesBehind = 5; /* not aligned */
    hn_sparse_span span;
    std::vector<int32_t> block, tile_first;
    int64_t values;

    Pool(const Shape &s, int64_t count, unsigned seed)
    {
        const int64_t total = hn_block_total(s.block(), s.out, s.in);
        std::vector<int32_t> id((size_t)total);
        std::iota(id.begin(), id.end(), 0);
        std::mt19937 rng(seed);
        if (s.together)
            std::rotate(id.begin(), id.begin() + (long)(rng() % (uint64_t)total), id.end());
        else
            std::shuffle(id.begin(), id.end(), rng);
        id.resize((size_t)count);
        std::sort(id.begin(), id.end());
        set(s, id);
    }
    void set(const Shape &s, const std::vector<int32_t> &id)
    {
        std::vector<int32_t> order(id.size());
        if (hn_block_tiled(s.block()))
            tile_first.assign((size_t)hn_sparse_tiles(s.out, s.in) + 1, 9);
        EXPECT_HN_OK(hn_sparse_order(s.block(), s.out, s.in, id.data(), (int64_t)id.size(),
                                     tile_first.data(), order.data()));
        span = {kValuesBefore, kBlocksBefore, (int32_t)id.size()};
        block.assign((size_t)(kBlocksBefore + s.capacity + kBlocksBehind), INT32_MAX);
        for (size_t i = 0; i < id.size(); i++) block[kBlocksBefore + i] = id[(size_t)order[i]];
        values = kValuesBefore + s.capacity * s.br * s.bc + kValuesBehind;
    }
};

[[maybe_unused]] hn_block_dw_args args_of(const Shape &s, const Pool &p)
{
    hn_block_dw_args a = {};
    a.span = &p.span, a.block = p.block.data();
    a.tile_first = p.tile_first.empty() ? nullptr : p.tile_first.data();
    a.rows = s.rows, a.in = s.in, a.out = s.out;
    a.shape = s.block(), a.capacity = s.capacity;
    a.blocks = (int64_t)p.block.size(), a.values = p.values;
    a.dtype = s.dtype, a.alpha = 0.5f;
    return a;
}

#ifdef HONE_CUDA
/* What a kernel reads of the pool, on the device. */
struct DevicePool {
    DeviceArray<hn_sparse_span> span;
    DeviceArray<int32_t> block, tile_first;
    DeviceArray<float> grad;

    explicit DevicePool(const Pool &p)
        : span(std::vector<hn_sparse_span>{p.span}), block(p.block),
          tile_first(p.tile_first.empty() ? std::vector<int32_t>{0} : p.tile_first),
          grad((size_t)p.values)
    {
    }
    void put(hn_block_dw_args *a)
    {
        a->span = span.data(), a->block = block.data(), a->grad = grad.data();
        if (a->tile_first != nullptr) a->tile_first = tile_first.data();
    }
};
#endif

} // namespace
#endif
