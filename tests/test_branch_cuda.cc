/* Branches of captured graphs: taken or not by a number on the device, at every launch anew. */
#include "gemm_cuda_test.h"
#include "kernel_test.h"
#include "runtime/base/cuda_branch.h"

namespace {

/* Sets `to` to 1 (all bytes) when *value > above. */
hn_status mark(const int32_t *value, int32_t above, DeviceArray<unsigned char> &to,
               hn_stream stream)
{
    hn_cuda_branch b;
    HN_TRY(hn_cuda_branch_begin(&b, value, above, stream));
    const cudaError_t e = cudaMemsetAsync(to.data(), 1, to.bytes(), b.body);
    return hn_cuda_branch_end(&b, e == cudaSuccess ? HN_OK : HN_ERR_CUDA);
}

bool has_branches()
{
    int driver = 0;
    EXPECT_EQ(cudaDriverGetVersion(&driver), cudaSuccess);
    return driver >= 12040;
}

const std::vector<unsigned char> zeros(64, 0), ones(64, 1);

TEST(CudaBranch, CapturedWorkRunsOnlyWhenTheNumberIsLargeEnough)
{
    HN_NEED_CUDA();
    if (!has_branches()) GTEST_SKIP() << "the driver has no conditional nodes";
    DeviceArray<int32_t> value(std::vector<int32_t>{0});
    DeviceArray<unsigned char> first(zeros), second(zeros);
    CapturedGraph graph([&](hn_stream stream) {
        EXPECT_HN_OK(mark(value.data(), 4, first, stream));
        EXPECT_HN_OK(mark(value.data(), 8, second, stream));
    });
    for (const int32_t v : {9, 5, 4, 0, 8, 100, -1}) {
        SCOPED_TRACE(v);
        value.assign({v}), first.assign(zeros), second.assign(zeros);
        graph.launch();
        EXPECT_EQ(first.host(), v > 4 ? ones : zeros);
        EXPECT_EQ(second.host(), v > 8 ? ones : zeros);
    }
}

/* The number is read behind what was enqueued before the branch, and what follows waits for it. */
TEST(CudaBranch, KeepsTheOrderOfTheStream)
{
    HN_NEED_CUDA();
    if (!has_branches()) GTEST_SKIP() << "the driver has no conditional nodes";
    DeviceArray<int32_t> value(std::vector<int32_t>{0}), wanted(std::vector<int32_t>{1});
    DeviceArray<unsigned char> marked(zeros), copy(zeros);
    CapturedGraph graph([&](hn_stream stream) {
        EXPECT_EQ(cudaMemcpyAsync(value.data(), wanted.data(), sizeof(int32_t),
                                  cudaMemcpyDeviceToDevice, stream),
                  cudaSuccess);
        EXPECT_HN_OK(mark(value.data(), 0, marked, stream));
        EXPECT_EQ(cudaMemcpyAsync(copy.data(), marked.data(), marked.bytes(),
                                  cudaMemcpyDeviceToDevice, stream),
                  cudaSuccess);
    });
    for (const int32_t v : {1, 0, 1}) {
        wanted.assign({v}), marked.assign(zeros);
        graph.launch();
        EXPECT_EQ(copy.host(), v > 0 ? ones : zeros);
    }
}

/* cuBLASLt's own kernels, with its workspace, of as many tokens as kernels of different kinds take.
 */
TEST(CudaBranch, HoldsProducts)
{
    HN_NEED_CUDA();
    if (!has_branches()) GTEST_SKIP() << "the driver has no conditional nodes";
    for (const int64_t k : {1000, 129, 8}) {
        SCOPED_TRACE(k);
        Gemm gemm;
        Matrix a(HN_BF16, k, 192), b(HN_BF16, k, 320), zero(HN_F32, 192, 320);
        a.normal(1), b.normal(2), zero.normal(3, 0, 0);
        DeviceCopy da(a, true), db(b, true), want(zero, true), got(zero, true);
        DeviceArray<int32_t> value(std::vector<int32_t>{0});
        const auto before = got.raw();
        hn_gemm_cuda_args g = {};
        g.m = 192, g.n = 320, g.k = k, g.trans_a = true;
        g.a = da.data(), g.b = db.data(), g.ld_a = da.ld(), g.ld_b = db.ld();
        g.c = want.data(), g.ld_c = want.ld(), g.dtype = HN_BF16, g.c_dtype = HN_F32;
        g.alpha = 1.0f;
        ASSERT_HN_OK(hn_gemm_cuda_run(gemm, &g, nullptr));
        g.c = got.data();
        CapturedGraph graph([&](hn_stream stream) {
            hn_cuda_branch branch;
            ASSERT_HN_OK(hn_cuda_branch_begin(&branch, value.data(), 0, stream));
            EXPECT_HN_OK(hn_cuda_branch_end(&branch, hn_gemm_cuda_run(gemm, &g, branch.body)));
        });
        graph.launch();
        EXPECT_TRUE(same_bits(got.raw(), before)) << "not taken";
        value.assign({1});
        graph.launch();
        EXPECT_TRUE(same_bits(got.raw(), want.raw()));
    }
}

TEST(CudaBranch, WorkAlwaysRunsOnAStreamThatIsNotCaptured)
{
    HN_NEED_CUDA();
    DeviceArray<int32_t> value(std::vector<int32_t>{0});
    DeviceArray<unsigned char> marked(zeros);
    EXPECT_HN_OK(mark(value.data(), 4, marked, nullptr));
    EXPECT_EQ(marked.host(), ones);
}

TEST(CudaBranch, HandsBackTheFailureOfTheWork)
{
    HN_NEED_CUDA();
    DeviceArray<int32_t> value(std::vector<int32_t>{1});
    DeviceArray<unsigned char> marked(zeros);
    CapturedGraph graph([&](hn_stream stream) {
        hn_cuda_branch b;
        ASSERT_HN_OK(hn_cuda_branch_begin(&b, value.data(), 0, stream));
        EXPECT_EQ(hn_cuda_branch_end(&b, HN_ERR_MEMORY), HN_ERR_MEMORY);
        EXPECT_HN_OK(mark(value.data(), 0, marked, stream)); /* the capture goes on */
    });
    graph.launch();
    EXPECT_EQ(marked.host(), ones);
}

} // namespace
