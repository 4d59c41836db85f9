/* gemm_cuda_test.h - products on the GPU for tests: the library with its workspace, and scratch. */
#ifndef HN_GEMM_CUDA_TEST_H
#define HN_GEMM_CUDA_TEST_H
#include "cuda_test.h"
#include "kernels/linear/gemm_cuda.h"

class Gemm {
    hn_gemm_cuda *g_ = nullptr;
    void *workspace_ = nullptr;

  public:
    Gemm()
    {
        EXPECT_HN_OK(hn_gemm_cuda_open(&g_));
        EXPECT_EQ(cudaMalloc(&workspace_, HN_GEMM_WORKSPACE), cudaSuccess);
        if (g_ != nullptr) hn_gemm_cuda_workspace(g_, workspace_, HN_GEMM_WORKSPACE);
    }
    Gemm(const Gemm &) = delete;
    Gemm &operator=(const Gemm &) = delete;
    ~Gemm()
    {
        EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
        hn_gemm_cuda_close(g_);
        cudaFree(workspace_);
    }
    operator hn_gemm_cuda *() const { return g_; }
};

/* Device scratch of exactly the promised size between guard bands; NULL when that is 0. */
class DeviceScratch {
    const bool empty_;
    DeviceArray<unsigned char> bytes_;

  public:
    explicit DeviceScratch(size_t n_bytes) : empty_(n_bytes == 0), bytes_(empty_ ? 1 : n_bytes) {}
    ~DeviceScratch() { (void)bytes_.host(); }
    void *data() { return empty_ ? nullptr : bytes_.data(); }
};

/* The gap after `cols` columns that puts rows of either dtype on 16-byte boundaries. */
inline int64_t aligned_gap(int64_t cols) { return (8 - cols % 8) % 8; }

/* A device copy of a host matrix; rows on 16-byte boundaries, or 3 elements apart. */
class DeviceCopy : public DeviceMatrix {
  public:
    DeviceCopy(Matrix &m, bool aligned)
        : DeviceMatrix(m.dtype(), m.rows(), m.cols(), aligned ? aligned_gap(m.cols()) : 3)
    {
        assign(m.values());
    }
};
#endif
