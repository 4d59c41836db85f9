/* cuda_test.h - what the tests of CUDA functions share; in builds with HONE_CUDA only. */
#ifndef HN_CUDA_TEST_H
#define HN_CUDA_TEST_H
#include <cuda_runtime_api.h>

#include "kernel_test.h"
#include "runtime/base/stream.h"

/* Skip without a GPU, unless the run says that there must be one. */
#define HN_NEED_CUDA()                                                             \
    do {                                                                           \
        int n_ = 0;                                                                \
        if (cudaGetDeviceCount(&n_) != cudaSuccess || n_ == 0) {                   \
            ASSERT_EQ(std::getenv("HN_REQUIRE_GPU"), nullptr) << "no CUDA device"; \
            GTEST_SKIP() << "no CUDA device";                                      \
        }                                                                          \
    } while (0)

/* Device array between two guard bands. Fresh memory is all 0xff: NaN in bf16 and fp32, so an
 * element that was never written cannot pass a comparison. */
template <class T>
class DeviceArray {
    static constexpr size_t kGuard = 256;
    unsigned char *base_ = nullptr;
    size_t n_;

  public:
    explicit DeviceArray(size_t n) : n_(n)
    {
        EXPECT_EQ(cudaMalloc((void **)&base_, bytes() + 2 * kGuard), cudaSuccess);
        EXPECT_EQ(cudaMemset(base_, 0xff, bytes() + 2 * kGuard), cudaSuccess);
    }
    explicit DeviceArray(const std::vector<T> &h) : DeviceArray(h.size()) { assign(h); }
    DeviceArray(const DeviceArray &) = delete;
    DeviceArray &operator=(const DeviceArray &) = delete;
    ~DeviceArray() { cudaFree(base_); }

    void assign(const std::vector<T> &h)
    {
        ASSERT_EQ(h.size(), n_);
        EXPECT_EQ(cudaMemcpy(data(), h.data(), bytes(), cudaMemcpyHostToDevice), cudaSuccess);
    }
    size_t bytes() const { return n_ * sizeof(T); }
    T *data() { return reinterpret_cast<T *>(base_ + kGuard); }
    /* Waits for the device; the bands must be untouched. */
    std::vector<T> host()
    {
        EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
        std::vector<unsigned char> raw(bytes() + 2 * kGuard);
        EXPECT_EQ(cudaMemcpy(raw.data(), base_, raw.size(), cudaMemcpyDeviceToHost), cudaSuccess);
        for (size_t i = 0; i < kGuard; i++)
            if (raw[i] != 0xff || raw[raw.size() - 1 - i] != 0xff) {
                ADD_FAILURE() << "wrote outside the array";
                break;
            }
        std::vector<T> h(n_);
        std::memcpy(h.data(), raw.data() + kGuard, bytes());
        return h;
    }
};

/* The same on a device as Matrix on the host: rows with gaps, all NaN until assigned. */
class DeviceMatrix {
    hn_dtype t_;
    int64_t rows_, cols_, ld_;
    DeviceArray<unsigned char> bytes_;

  public:
    DeviceMatrix(hn_dtype t, int64_t rows, int64_t cols, int64_t gap = 3)
        : t_(t), rows_(rows), cols_(cols), ld_(cols + gap),
          bytes_((size_t)(rows * (cols + gap)) * hn_dtype_size(t))
    {
    }
    void *data() { return bytes_.data(); }
    float *f32() { return reinterpret_cast<float *>(bytes_.data()); }
    int64_t ld() const { return ld_; }
    hn_dtype dtype() const { return t_; }
    DeviceMatrix &assign(const std::vector<float> &v)
    {
        EXPECT_EQ((int64_t)v.size(), rows_ * cols_);
        std::vector<unsigned char> raw((size_t)(rows_ * ld_) * hn_dtype_size(t_), 0xff);
        for (int64_t i = 0; i < rows_; i++)
            for (int64_t j = 0; j < cols_; j++)
                hn_set_f32(raw.data(), t_, i * ld_ + j, v[(size_t)(i * cols_ + j)]);
        bytes_.assign(raw);
        return *this;
    }
    DeviceMatrix &normal(unsigned seed, float mean = 0, float sd = 1)
    {
        return assign(normal_f32((size_t)(rows_ * cols_), seed, mean, sd));
    }
    /* Waits; gaps and guard bands must be untouched. */
    std::vector<float> values() { return values_of_rows(bytes_.host(), t_, rows_, cols_, ld_); }
    std::vector<unsigned char> raw() { return bytes_.host(); }
};

/* What enqueue(stream) does, captured into a CUDA graph. */
class CapturedGraph {
    cudaStream_t stream_ = nullptr;
    cudaGraphExec_t exec_ = nullptr;

  public:
    template <class Fn>
    explicit CapturedGraph(Fn enqueue)
    {
        cudaGraph_t graph = nullptr;
        EXPECT_EQ(cudaStreamCreate(&stream_), cudaSuccess);
        EXPECT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), cudaSuccess);
        enqueue(stream_);
        EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
        EXPECT_EQ(cudaGraphInstantiate(&exec_, graph, 0), cudaSuccess);
        cudaGraphDestroy(graph);
    }
    CapturedGraph(const CapturedGraph &) = delete;
    CapturedGraph &operator=(const CapturedGraph &) = delete;
    ~CapturedGraph()
    {
        cudaGraphExecDestroy(exec_);
        cudaStreamDestroy(stream_);
    }
    void launch(int times = 1)
    {
        EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess); /* what the default stream has copied */
        for (int i = 0; i < times; i++) EXPECT_EQ(cudaGraphLaunch(exec_, stream_), cudaSuccess);
        EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    }
};

/* Captures, and runs the graph `times` times. */
template <class Fn>
void run_captured(Fn enqueue, int times = 1)
{
    CapturedGraph(enqueue).launch(times);
}
#endif
