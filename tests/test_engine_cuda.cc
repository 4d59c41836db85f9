/* The engine on a GPU: executors agree bit for bit, CPU and GPU learn the same, the plan is what is
 * taken, nothing is taken behind it, and the host does not wait. cudaMalloc and its kin, and calls
 * that wait, are counted by the linker's --wrap (CMakeLists.txt). */
#include <jansson.h>

#include "cuda_test.h"
#include "runtime/base/alloc.h"
#include "runtime/file/peft.h"
#include "runtime/graph/tensor.h"
#include "runtime/model/model.h"
#include "runtime/train/decoder_job.h"
#include "runtime/train/generator.h"
#include "runtime/train/lora_hook.h"

static int64_t device_allocations, waits, waits_for_events;

extern "C" {
#define HN_COUNTED(counter, name, parameters, arguments) \
    cudaError_t __real_##name parameters;                \
    cudaError_t __wrap_##name parameters;                \
    cudaError_t __wrap_##name parameters                 \
    {                                                    \
        counter++;                                       \
        return __real_##name arguments;                  \
    }
HN_COUNTED(device_allocations, cudaMalloc, (void **p, size_t n), (p, n))
HN_COUNTED(device_allocations, cudaMallocAsync, (void **p, size_t n, cudaStream_t s), (p, n, s))
HN_COUNTED(device_allocations, cudaHostAlloc, (void **p, size_t n, unsigned f), (p, n, f))
HN_COUNTED(device_allocations, cudaMallocHost, (void **p, size_t n), (p, n))
HN_COUNTED(waits, cudaStreamSynchronize, (cudaStream_t s), (s))
HN_COUNTED(waits, cudaDeviceSynchronize, (), ())
HN_COUNTED(waits, cudaMemcpy, (void *to, const void *from, size_t n, cudaMemcpyKind k),
           (to, from, n, k))
HN_COUNTED(waits_for_events, cudaEventSynchronize, (cudaEvent_t e), (e))
#undef HN_COUNTED
}

namespace {

hn_adapt_kind all_parameters(const void *, const char *) { return HN_ADAPT_FULL; }

struct Setup {
    std::string device = "cuda";
    hn_executor executor = HN_EXECUTOR_GRAPH;
    const char *dtype = "f32";
    double dropout = 0.1;
    int64_t rows = 4, seq_len = 32;
    bool full = false;
    hn_recompute recompute = HN_RECOMPUTE_OFF;
    size_t memory = 0;
    hn_side side = HN_SIDE_AUTO;
    int side_sms = 0;
};

/* A small model that learns a fixed text with LoRA or wholly. */
class Job {
    hn_peft_config peft_ = {};
    hn_adapt adapt_ = {};

  public:
    hn_device *device = nullptr;
    hn_model model = {};
    hn_engine *e = nullptr;
    hn_engine_options o = {};
    hn_decoder_options d = {};
    hn_decoder_job job = {};

    Job(const std::string &dir, const Setup &s)
    {
        EXPECT_HN_OK(hn_device_open(s.device.c_str(), &device));
        EXPECT_HN_OK(hn_model_open(dir.c_str(), s.dtype, nullptr, &model));
        peft_.r = 4;
        peft_.alpha = 8;
        peft_.dropout = s.dropout;
        for (const char *name : {"q_proj", "k_proj", "o_proj", "gate_proj", "down_proj"})
            EXPECT_HN_OK(hn_names_add(&peft_.targets.list, name));
        adapt_ = hn_lora_hook(&peft_);
        if (s.full) adapt_ = {};
        if (s.full) adapt_.parameter = all_parameters;
        o.device = device;
        o.executor = s.device == "cpu" ? HN_EXECUTOR_CPU : s.executor;
        d.decoder = &model.decoder;
        o.adapt = &adapt_;
        o.dtype = model.dtype;
        d.batch_rows = s.rows;
        d.seq_len = s.seq_len;
        d.max_seqs = s.rows;
        o.train = o.eval = true;
        o.recompute = s.recompute;
        o.memory = s.memory;
        o.side = s.side;
        o.side_sms = s.side_sms;
        d.logits_rows = 8;
        o.optimizer.beta1 = 0.9;
        o.optimizer.beta2 = 0.999;
        o.optimizer.eps = 1e-8;
        o.optimizer.weight_decay = 0.01;
        o.optimizer.max_grad_norm = 1;
        o.seed = 5;
        hn_decoder_job_init(&job, &d);
        o.job = &job.job;
        EXPECT_HN_OK(hn_engine_new(&o, &e));
        if (e == nullptr) return;
        EXPECT_HN_OK(hn_engine_allocate(e));
        EXPECT_HN_OK(hn_model_load(&model, hn_engine_params(e), 5));
    }
    ~Job()
    {
        hn_engine_free(e);
        hn_model_close(&model);
        hn_device_close(device);
        hn_peft_config_clear(&peft_);
    }
    Job(const Job &) = delete;
    void fill(int64_t step)
    {
        hn_engine_input in;
        ASSERT_HN_OK(hn_engine_batch(e, &in));
        const hn_decoder_batch to = hn_decoder_batch_of(&in);
        for (int64_t r = 0; r < d.batch_rows; r++)
            for (int64_t i = 0; i < d.seq_len; i++) {
                const int64_t at = r * d.seq_len + i, n = step * 7 + r * 3 + i;
                to.tokens[at] = token(n);
                to.labels[at] = i % 5 == 4 ? -100 : token(n + 1);
                to.positions[at] = (int32_t)i;
            }
        for (int64_t s = 0; s <= d.max_seqs; s++) to.offsets[s] = (int32_t)(s * d.seq_len);
    }
    int32_t token(int64_t n) const { return (int32_t)((n * n / 3 + n) % model.decoder.vocab); }
    void step(int64_t t, hn_step_report *report)
    {
        EXPECT_HN_OK(hn_engine_begin(e, t));
        for (int64_t a = 0; a < 2; a++) {
            fill(2 * t + a);
            EXPECT_HN_OK(hn_engine_micro(e, a));
        }
        EXPECT_HN_OK(hn_engine_update(e, 1e-2, report));
    }
    void one_batch_step(int64_t t, bool whole, hn_step_report *report)
    {
        fill(t);
        if (whole) {
            EXPECT_HN_OK(hn_engine_step(e, t, 1e-2, report));
            return;
        }
        EXPECT_HN_OK(hn_engine_begin(e, t));
        EXPECT_HN_OK(hn_engine_micro(e, 0));
        EXPECT_HN_OK(hn_engine_update(e, 1e-2, report));
    }
    hn_step_report step(int64_t t)
    {
        hn_step_report r = {};
        step(t, &r);
        return r;
    }
    std::vector<double> losses(int64_t steps)
    {
        std::vector<double> v;
        for (int64_t t = 0; t < steps; t++) v.push_back(step(t).loss);
        return v;
    }
    std::vector<float> trained() const
    {
        std::vector<float> all;
        for (int64_t i = 0; i < hn_params_count(hn_engine_params(e)); i++) {
            const hn_param *p = hn_params_at(hn_engine_params(e), i);
            if (!p->trained) continue;
            std::vector<float> v((size_t)hn_type_elements(&p->master->type));
            EXPECT_HN_OK(hn_param_get(p, v.data()));
            all.insert(all.end(), v.begin(), v.end());
        }
        return all;
    }
};

const char MODEL[] = "tests/fixtures/models/qwen3"; /* grouped heads, per-head norms, tied head */

class EngineOnCuda : public ::testing::TestWithParam<const char *> {
  protected:
    void SetUp() override { HN_NEED_CUDA(); }
};

TEST_P(EngineOnCuda, BothExecutorsAndTwoRunsGiveTheSameBits)
{
    for (const bool full : {false, true}) {
        std::vector<float> first;
        for (const hn_executor x : {HN_EXECUTOR_NODES, HN_EXECUTOR_GRAPH, HN_EXECUTOR_GRAPH}) {
            Job r(MODEL, {.executor = x, .dtype = GetParam(), .full = full});
            r.losses(6);
            if (first.empty()) first = r.trained();
            EXPECT_TRUE(same_bits(first, r.trained()));
        }
    }
}

/* Of every executor; behind each such step come an evaluation and a step of two micro-batches. */
TEST_P(EngineOnCuda, AStepOfOneMicroBatchMayGoAsOne)
{
    std::vector<float> first;
    std::vector<double> losses;
    for (const bool whole : {false, true})
        for (const hn_executor x : {HN_EXECUTOR_NODES, HN_EXECUTOR_GRAPH}) {
            Job r(MODEL, {.executor = x, .dtype = GetParam(), .full = true});
            std::vector<double> got;
            for (int64_t t = 0; t < 6; t += 2) {
                hn_step_report s = {};
                hn_eval_sums e = {};
                r.one_batch_step(t, whole, &s);
                got.insert(got.end(), {s.loss, s.loss_sum, (double)s.tokens, s.grad_norm});
                ASSERT_HN_OK(hn_engine_eval_begin(r.e));
                r.fill(9);
                ASSERT_HN_OK(hn_engine_eval_batch(r.e));
                ASSERT_HN_OK(hn_engine_eval_sums(r.e, &e));
                got.insert(got.end(), {e.loss, r.step(t + 1).loss});
            }
            if (first.empty()) first = r.trained(), losses = got;
            EXPECT_TRUE(same_bits(first, r.trained()));
            EXPECT_EQ(got, losses);
        }
}

/* What a micro-batch without an update has counted is not this step's. */
TEST_P(EngineOnCuda, AStepBeginsItsSumsAnew)
{
    for (const hn_executor x : {HN_EXECUTOR_NODES, HN_EXECUTOR_GRAPH}) {
        Job clean(MODEL, {.executor = x, .dtype = GetParam()});
        Job spoilt(MODEL, {.executor = x, .dtype = GetParam()});
        hn_step_report want = {}, got = {};
        clean.one_batch_step(0, false, &want);
        spoilt.fill(7);
        ASSERT_HN_OK(hn_engine_begin(spoilt.e, 0));
        ASSERT_HN_OK(hn_engine_micro(spoilt.e, 0));
        spoilt.one_batch_step(0, true, &got);
        EXPECT_EQ(got.tokens, want.tokens);
        EXPECT_EQ(got.loss_sum, want.loss_sum);
    }
}

TEST_P(EngineOnCuda, TheSideStreamChangesNoBit)
{
    for (const double dropout : {0.0, 0.1}) {
        Job one(MODEL, {.dtype = GetParam(), .dropout = dropout, .side = HN_SIDE_OFF});
        one.losses(6);
        for (const hn_executor x : {HN_EXECUTOR_NODES, HN_EXECUTOR_GRAPH, HN_EXECUTOR_GRAPH}) {
            Job two(MODEL,
                    {.executor = x, .dtype = GetParam(), .dropout = dropout, .side = HN_SIDE_ON});
            hn_plan_sizes sizes;
            hn_plan_sizes_of(hn_engine_program(two.e), &sizes);
            EXPECT_GT(sizes.n_side, 0);
            two.losses(6);
            EXPECT_TRUE(same_bits(one.trained(), two.trained()));
        }
    }
}

/* Other plans of products, the same ones for every executor; none for f32. */
TEST_P(EngineOnCuda, ProductsForFewerMultiprocessorsRepeat)
{
    std::vector<float> first;
    for (const hn_executor x : {HN_EXECUTOR_NODES, HN_EXECUTOR_GRAPH, HN_EXECUTOR_CHECK}) {
        Job r(MODEL, {.executor = x, .dtype = GetParam(), .side = HN_SIDE_ON, .side_sms = 12});
        r.losses(4);
        if (first.empty()) first = r.trained();
        EXPECT_TRUE(same_bits(first, r.trained()));
    }
    Job again(
        MODEL,
        {.dtype = GetParam(), .recompute = HN_RECOMPUTE_ON, .side = HN_SIDE_ON, .side_sms = 12});
    again.losses(4);
    EXPECT_TRUE(same_bits(again.trained(), first));
    Job all(MODEL, {.dtype = GetParam()});
    all.losses(4);
    EXPECT_LT(rel_l2(all.trained(), first), 2e-2); /* as bf16 runs of two products differ */
    if (std::string(GetParam()) == "f32") {
        EXPECT_TRUE(same_bits(all.trained(), first));
    }
}

TEST_P(EngineOnCuda, RecomputationChangesNoBit)
{
    Job kept(MODEL, {.dtype = GetParam()});
    Job again(MODEL, {.dtype = GetParam(), .recompute = HN_RECOMPUTE_ON});
    hn_plan_sizes plan;
    hn_plan_sizes_of(hn_engine_program(kept.e), &plan);
    Job some(MODEL,
             {.dtype = GetParam(), .recompute = HN_RECOMPUTE_AUTO, .memory = plan.total_bytes - 1});
    EXPECT_EQ(hn_engine_recomputed(again.e), 2);
    EXPECT_GE(hn_engine_recomputed(some.e), 1);
    const auto want = kept.losses(4);
    EXPECT_EQ(again.losses(4), want);
    EXPECT_EQ(some.losses(4), want);
    EXPECT_TRUE(same_bits(kept.trained(), again.trained()));
    EXPECT_TRUE(same_bits(kept.trained(), some.trained()));
}

TEST_P(EngineOnCuda, EveryNodeAgreesWithItsTwin)
{
    Job r(MODEL, {.executor = HN_EXECUTOR_CHECK, .dtype = GetParam()});
    r.losses(2);
    r.fill(9);
    ASSERT_HN_OK(hn_engine_eval_begin(r.e));
    ASSERT_HN_OK(hn_engine_eval_batch(r.e));
}

INSTANTIATE_TEST_SUITE_P(Dtypes, EngineOnCuda, ::testing::Values("f32", "bf16"),
                         [](const auto &i) { return std::string(i.param); });

TEST(EngineOnCudaF32, LearnsWhatTheCpuLearns)
{
    HN_NEED_CUDA();
    for (const bool full : {false, true}) {
        Job cpu(MODEL, {.device = "cpu", .full = full}), gpu(MODEL, {.full = full});
        const auto want = cpu.losses(20), got = gpu.losses(20);
        for (size_t i = 0; i < want.size(); i++) EXPECT_NEAR(got[i], want[i], 1e-4) << i;
        EXPECT_LT(rel_l2(gpu.trained(), cpu.trained()), 1e-3);
    }
}

TEST(EngineOnCudaMemory, NothingIsAllocatedBehindThePlan)
{
    HN_NEED_CUDA();
    for (const hn_executor x : {HN_EXECUTOR_NODES, HN_EXECUTOR_GRAPH}) {
        SCOPED_TRACE(x == HN_EXECUTOR_GRAPH ? "captured graphs" : "nodes");
        Job r(MODEL, {.executor = x, .dtype = "bf16"});
        hn_step_report report;
        size_t before = 0, after = 0;
        ASSERT_HN_OK(hn_device_used(r.device, &before));
        const int64_t gpu = device_allocations;
        const uint64_t host = hn_alloc_calls();
        r.step(0);
        ASSERT_HN_OK(hn_engine_eval_begin(r.e));
        r.fill(9);
        ASSERT_HN_OK(hn_engine_eval_batch(r.e));
        r.step(1);
        r.one_batch_step(2, true, &report);
        EXPECT_EQ(device_allocations, gpu);
        EXPECT_EQ(hn_alloc_calls(), host);
        ASSERT_HN_OK(hn_device_used(r.device, &after));
        EXPECT_EQ(after, before); /* what libraries might take by themselves would show here */
    }
    EXPECT_GT(device_allocations, 0); /* the counter counts */
}

/* Between two looks at the reports the host waits for nothing but a staging batch that is in use
 * still two batches later; what it learns is what it learns when it waits for every step. */
TEST(EngineOnCudaWaits, TheHostRunsAhead)
{
    HN_NEED_CUDA();
    enum { STEPS = 40 };
    for (const hn_executor x : {HN_EXECUTOR_NODES, HN_EXECUTOR_GRAPH}) {
        Job waiting(MODEL, {.executor = x}), ahead(MODEL, {.executor = x});
        const auto want = waiting.losses(STEPS);
        std::vector<double> got;
        const auto take = [&](bool wait) {
            bool there = true;
            hn_step_report r;
            while (there) {
                ASSERT_HN_OK(hn_engine_report(ahead.e, wait, &there, &r));
                if (there) got.push_back(r.loss);
            }
        };
        const int64_t waits_before = waits, events_before = waits_for_events;
        for (int64_t t = 0; t < STEPS; t++) {
            ahead.step(t, nullptr);
            take(false);
        }
        EXPECT_EQ(waits, waits_before);
        EXPECT_LE(waits_for_events - events_before, 2 * STEPS); /* one a batch at most */
        take(true);
        EXPECT_EQ(waits, waits_before);
        EXPECT_EQ(got, want);
        EXPECT_TRUE(same_bits(ahead.trained(), waiting.trained()));
        EXPECT_GT(waits, waits_before); /* the counter counts */
    }
}

TEST(EngineOnCudaWaits, TheHostRunsAheadOfWholeSteps)
{
    HN_NEED_CUDA();
    enum { STEPS = 40 };
    Job apart(MODEL, {}), ahead(MODEL, {});
    const int64_t waits_before = waits, events_before = waits_for_events;
    for (int64_t t = 0; t < STEPS; t++) {
        bool there = true;
        hn_step_report r;
        ahead.one_batch_step(t, true, nullptr);
        while (there) ASSERT_HN_OK(hn_engine_report(ahead.e, false, &there, &r));
    }
    EXPECT_EQ(waits, waits_before);
    EXPECT_LE(waits_for_events - events_before, STEPS); /* one a batch at most */
    for (int64_t t = 0; t < STEPS; t++) {
        hn_step_report r;
        apart.one_batch_step(t, false, &r);
    }
    EXPECT_TRUE(same_bits(ahead.trained(), apart.trained()));
}

TEST(EngineOnCudaWaits, ReportsThatNobodyTakesEndTheRun)
{
    HN_NEED_CUDA();
    Job r(MODEL, {});
    for (int64_t t = 0; t < HN_ENGINE_AHEAD; t++) r.step(t, nullptr);
    EXPECT_HN_FAIL(hn_engine_update(r.e, 1e-2, nullptr), HN_ERR_ARG,
                   "the reports of 8 steps have not been taken");
    EXPECT_HN_FAIL(hn_engine_step(r.e, 8, 1e-2, nullptr), HN_ERR_ARG, "reports of 8 steps");
}

/* The memory that goes is what the plan says, to 2 % or 64 MiB. */
TEST(EngineOnCudaMemory, PlanAndMeasurementAgree)
{
    HN_NEED_CUDA();
    for (const int64_t rows : {2, 64}) {
        Job r(MODEL, {.dtype = "bf16", .rows = rows, .seq_len = 128});
        size_t used = 0;
        hn_plan_sizes plan;
        r.losses(2);
        ASSERT_HN_OK(hn_device_used(r.device, &used));
        hn_plan_sizes_of(hn_engine_program(r.e), &plan);
        const double difference = std::fabs((double)used - (double)plan.total_bytes);
        std::printf("plan %.1f MiB, measured %.1f MiB\n", (double)plan.total_bytes / 0x1p20,
                    (double)used / 0x1p20);
        EXPECT_LE(difference, std::max(0.02 * (double)plan.total_bytes, 64.0 * 0x1p20));
    }
}

TEST(EngineOnCudaMemory, APlanThatDoesNotFitSaysWhatIsFree)
{
    HN_NEED_CUDA();
    hn_device *device = nullptr;
    hn_program *p = nullptr;
    hn_tensor *t = nullptr;
    ASSERT_HN_OK(hn_device_open("cuda", &device));
    ASSERT_HN_OK(hn_program_new(1, &p));
    const hn_type huge = hn_type_2d(HN_F32, (int64_t)1 << 20, (int64_t)1 << 20);
    ASSERT_HN_OK(hn_program_tensor(p, HN_MEM_WEIGHT, "huge", &huge, &t));
    const hn_plan_options o = {.device = device};
    ASSERT_HN_OK(hn_plan_build(p, &o));
    const int64_t before = device_allocations;
    EXPECT_HN_FAIL(hn_plan_allocate(p), HN_ERR_MEMORY, "the plan needs 4096.0");
    EXPECT_EQ(device_allocations, before);
    hn_program_free(p);
    hn_device_close(device);
}

TEST(EngineOnCudaPlans, AreUsedExactlyOrRefused)
{
    HN_NEED_CUDA();
    Job r(MODEL, {.dtype = "bf16"});
    r.losses(2);
    const auto before = r.trained();
    json_t *plans = nullptr, *now = nullptr;
    ASSERT_HN_OK(hn_engine_gemm_plans(r.e, &plans));
    ASSERT_GT(json_array_size(plans), 0u);
    ASSERT_HN_OK(hn_engine_use_gemm_plans(r.e, plans, "here"));
    EXPECT_HN_FAIL(hn_engine_use_gemm_plans(r.e, nullptr, "here"), HN_ERR_UNSUPPORTED,
                   "here: made on the CPU, this run is on a GPU");
    for (size_t i = 0; i < json_array_size(plans); i++)
        json_object_set_new(json_array_get(plans, i), "plain", json_true());
    ASSERT_HN_OK(hn_engine_use_gemm_plans(r.e, plans, "here"));
    EXPECT_TRUE(same_bits(before, r.trained())); /* the empty batch changed nothing */
    r.losses(1);
    ASSERT_HN_OK(hn_engine_gemm_plans(r.e, &now));
    for (size_t i = 0; i < json_array_size(now); i++)
        EXPECT_TRUE(json_is_true(json_object_get(json_array_get(now, i), "plain"))) << i;
    json_object_set_new(json_array_get(plans, 0), "library", json_integer(7));
    EXPECT_HN_FAIL(hn_engine_use_gemm_plans(r.e, plans, "here"), HN_ERR_UNSUPPORTED,
                   "here: its products were planned by cuBLASLt 7 on ");
    json_decref(plans);
    json_decref(now);
}

TEST(DeviceOnCuda, WhatIsNotThereIsNamed)
{
    HN_NEED_CUDA();
    hn_device *d = nullptr;
    EXPECT_HN_FAIL(hn_device_open("cuda:99", &d), HN_ERR_ARG, "cuda:99: there ");
    ASSERT_HN_OK(hn_device_open("auto", &d));
    EXPECT_EQ(hn_device_kind_of(d), HN_DEVICE_CUDA);
    EXPECT_NE(std::strstr(hn_device_text(d), "cuda:0, "), nullptr);
    void *p = nullptr;
    EXPECT_HN_FAIL(hn_device_alloc(d, (size_t)1 << 44, &p), HN_ERR_MEMORY,
                   "GiB are free on cuda:0");
    hn_device_close(d);
}

} // namespace
