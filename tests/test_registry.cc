/* Every row of the operation registry, on its own samples: same bits twice, fast function against
 * plain twin, guard bands and NaN poison, gradients against finite differences; on a GPU: against
 * the twin, same bits twice, captured replay, guard bands and NaN poison. */
#include "hn_test.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif
#include "runtime/graph/plan.h"
#include "runtime/graph/run.h"
#include "runtime/graph/tensor.h"

namespace {

bool is_float(hn_dtype t) { return t == HN_F32 || t == HN_BF16 || t == HN_F16; }

/* One operation on one sample: inputs are persistent, outputs kept. */
class Case {
  public:
    hn_device *device;
    hn_program *p = nullptr;
    hn_graph *g = nullptr;
    const hn_op_def *def;
    const hn_op_sample sample;
    hn_tensor *in[HN_MAX_IN] = {}, *out[HN_MAX_OUT] = {}, *seed[HN_MAX_OUT] = {};
    std::vector<std::vector<unsigned char>> start; /* input bytes before the run */
    hn_step_block step = {}; /* on the host; device_step is what the operations read */
    hn_step_block *device_step = nullptr;

    Case(hn_op_id id, const hn_op_sample &s, bool training, hn_device *d = nullptr)
        : device(d), def(hn_op(id)), sample(s)
    {
        EXPECT_HN_OK(hn_program_new(1, &p));
        EXPECT_HN_OK(hn_graph_new(p, "test", training, &g));
        for (int k = 0; k < def->n_in; k++) {
            if (s.in[k].ndim == 0) continue;
            const std::string name = "in" + std::to_string(k);
            EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, name.c_str(), &s.in[k], &in[k]));
            in[k]->needs_grad = training && is_float(s.in[k].dtype);
        }
        const hn_status st = hn_emit(g, id, "node", in, &s.attr, out);
        EXPECT_HN_OK(st);
        if (st != HN_OK) return;
        for (int k = 0; k < def->n_out; k++)
            if (out[k]) hn_graph_keep(out[k]);
        if (training) {
            for (int k = 0; k < def->n_out; k++) {
                if (!out[k] || !out[k]->needs_grad || def->alias[k]) continue;
                const std::string name = "seed" + std::to_string(k);
                EXPECT_HN_OK(
                    hn_program_tensor(p, HN_MEM_INPUT, name.c_str(), &out[k]->type, &seed[k]));
            }
            std::vector<hn_tensor *> y, dy;
            for (int k = 0; k < def->n_out; k++)
                if (seed[k]) y.push_back(out[k]), dy.push_back(seed[k]);
            EXPECT_HN_OK(hn_graph_backward(g, (int)y.size(), y.data(), dy.data()));
            for (int k = 0; k < def->n_in; k++)
                if (in[k] && hn_graph_grad(g, in[k])) hn_graph_keep(hn_graph_grad(g, in[k]));
        }
        const hn_plan_options o = {.device = d, .guard_bytes = 64};
        EXPECT_HN_OK(hn_plan_build(p, &o));
        EXPECT_HN_OK(hn_plan_allocate(p));
        step.seed = 11;
        step.step = 3;
        step.lr = 0.1f;
        step.bias_correction1 = 0.271f;
        step.bias_correction2 = 0.003f;
        step.max_norm = 1.0f;
        step.grad_scale = 0.5f;
        device = hn_program_device(p);
        void *block = nullptr;
        EXPECT_HN_OK(hn_device_alloc(device, sizeof step, &block));
        device_step = (hn_step_block *)block;
        fill();
    }
    ~Case()
    {
        hn_device_release(device, device_step);
        hn_program_free(p);
    }
    Case(const Case &) = delete;

    void fill()
    {
        const hn_node *n = hn_graph_node(g, 0);
        for (int k = 0; k < def->n_in; k++) {
            if (!in[k]) continue;
            std::vector<unsigned char> bytes(hn_type_bytes(&in[k]->type)); /* zeros */
            if (def->fill && def->fill(n, k, bytes.data()))
                put(in[k], bytes);
            else
                normal(in[k], 100u + (unsigned)k);
            EXPECT_HN_OK(hn_tensor_read(in[k], 0, bytes.data(), bytes.size()));
            start.push_back(bytes);
        }
        for (int k = 0; k < def->n_out; k++)
            if (seed[k]) normal(seed[k], 200u + (unsigned)k);
    }
    static void normal(hn_tensor *t, unsigned seed)
    {
        if (!is_float(t->type.dtype)) return; /* persistent memory starts as zeros */
        const auto v = normal_f32((size_t)hn_type_elements(&t->type), seed);
        set(t, v);
    }
    static void set(hn_tensor *t, const std::vector<float> &v)
    {
        EXPECT_HN_OK(hn_tensor_set(t, v.data()));
    }
    static std::vector<double> get(const hn_tensor *t)
    {
        std::vector<float> v((size_t)hn_type_elements(&t->type));
        EXPECT_HN_OK(hn_tensor_get(t, v.data()));
        return std::vector<double>(v.begin(), v.end());
    }
    void restore(int except = -1)
    {
        size_t i = 0;
        for (int k = 0; k < def->n_in; k++) {
            if (!in[k]) continue;
            if (k != except) put(in[k], start[i]);
            i++;
        }
        step.grad_scale = 0.5f;
        step.skipped = 0;
    }
    static void put(hn_tensor *t, const std::vector<unsigned char> &bytes)
    {
        EXPECT_HN_OK(hn_tensor_write(t, 0, bytes.data(), bytes.size()));
    }
    void send_step() { EXPECT_HN_OK(hn_device_write(device, device_step, &step, sizeof step)); }
    hn_status run(bool twin, bool check)
    {
        send_step();
        const hn_run_options o = {.step = device_step, .twin = twin, .check = check};
        return hn_graph_run(g, &o);
    }
    /* Bytes of every output, rows without the padding. */
    std::vector<unsigned char> output_bytes() const
    {
        std::vector<unsigned char> all;
        for (int k = 0; k < def->n_out; k++) {
            if (!out[k]) continue;
            const size_t size = hn_dtype_size(out[k]->type.dtype);
            const size_t row = (size_t)hn_type_ld(&out[k]->type) * size;
            std::vector<unsigned char> bytes(hn_type_bytes(&out[k]->type));
            EXPECT_HN_OK(hn_tensor_read(out[k], 0, bytes.data(), bytes.size()));
            for (int64_t i = 0; i < hn_type_rows(&out[k]->type); i++) {
                const auto *b = bytes.data() + (size_t)i * row;
                all.insert(all.end(), b, b + (size_t)hn_type_cols(&out[k]->type) * size);
            }
        }
        return all;
    }
};

class Registry : public ::testing::TestWithParam<int> {
  protected:
    const hn_op_id id = (hn_op_id)GetParam();
    const hn_op_def *def = hn_op(id);
    template <class Fn>
    void each(bool training, Fn fn, hn_device *device = nullptr)
    {
        ASSERT_NE(def->samples, nullptr) << def->name << " has no samples";
        for (int i = 0; def->samples[i].in[0].ndim; i++) {
            SCOPED_TRACE(std::string(def->name) + ", sample " + std::to_string(i));
            Case c(id, def->samples[i], training, device);
            if (HasFailure()) return;
            fn(c);
        }
    }
};

TEST_P(Registry, WritesEveryElementAndNothingElse)
{
    each(false, [](Case &c) { EXPECT_HN_OK(c.run(false, true)); });
    each(false, [](Case &c) { EXPECT_HN_OK(c.run(true, true)); });
}

TEST_P(Registry, RepeatsBitForBit)
{
    each(false, [](Case &c) {
        ASSERT_HN_OK(c.run(false, false));
        const auto first = c.output_bytes();
        c.restore();
        ASSERT_HN_OK(c.run(false, false));
        EXPECT_TRUE(first == c.output_bytes());
    });
}

TEST_P(Registry, FastMatchesTwin)
{
    each(false, [](Case &c) {
        ASSERT_HN_OK(c.run(true, false));
        std::vector<std::vector<double>> want(HN_MAX_OUT);
        for (int k = 0; k < c.def->n_out; k++)
            if (c.out[k] && is_float(c.out[k]->type.dtype)) want[(size_t)k] = Case::get(c.out[k]);
        c.restore();
        ASSERT_HN_OK(c.run(false, false));
        for (int k = 0; k < c.def->n_out; k++) {
            if (!c.out[k] || !is_float(c.out[k]->type.dtype)) continue;
            /* fp32 sums of a few hundred terms; one bf16 rounding may go to the other neighbour */
            const double tolerance = c.out[k]->type.dtype == HN_F32 ? 2e-5 : 6e-3;
            EXPECT_LT(rel_l2(Case::get(c.out[k]), want[(size_t)k]), tolerance) << "output " << k;
        }
    });
}

/* loss(x) = sum over outputs of seed * out, plus every output of a loss operation. */
double loss_of(Case &c)
{
    c.step.grad_scale = 0.5f;
    EXPECT_HN_OK(c.run(true, false));
    double loss = 0;
    for (int k = 0; k < c.def->n_out; k++) {
        if (c.seed[k]) {
            const auto y = Case::get(c.out[k]), w = Case::get(c.seed[k]);
            for (size_t i = 0; i < y.size(); i++) loss += y[i] * w[i];
        }
    }
    if (c.def->loss)
        for (const auto v : Case::get(c.out[0])) loss += v;
    return loss;
}

void restore_accumulators(Case &c, const std::vector<float> &probe, int probed)
{
    c.restore(probed);
    Case::set(c.in[probed], probe);
}

TEST_P(Registry, GradientsMatchFiniteDifferences)
{
    if (def->grad == nullptr) GTEST_SKIP() << "not differentiable";
    for (int s = 0; def->samples[s].in[0].ndim; s++) {
        SCOPED_TRACE(std::string(def->name) + ", sample " + std::to_string(s));
        bool f32 = true; /* differences of rounded values say nothing */
        for (int k = 0; k < def->n_in; k++)
            if (def->samples[s].in[k].ndim)
                f32 &=
                    def->samples[s].in[k].dtype != HN_BF16 && def->samples[s].in[k].dtype != HN_F16;
        if (!f32) continue;
        Case c(id, def->samples[s], true);
        ASSERT_FALSE(HasFailure());
        c.restore();
        ASSERT_HN_OK(c.run(true, false));
        std::vector<std::vector<double>> got(HN_MAX_IN);
        for (int k = 0; k < def->n_in; k++)
            if (c.in[k] && hn_graph_grad(c.g, c.in[k]))
                got[(size_t)k] = Case::get(hn_graph_grad(c.g, c.in[k]));
        for (int k = 0; k < def->n_in; k++) {
            if (got[(size_t)k].empty() || (def->kinks & HN_BIT(k))) continue;
            c.restore();
            std::vector<float> x;
            for (const double v : Case::get(c.in[k])) x.push_back((float)v);
            std::vector<double> want(x.size());
            for (size_t i = 0; i < x.size(); i++) {
                const float h = 1e-2f, old = x[i];
                double difference = 0, span = 0;
                /* fourth-order central difference: error h^4, so that h may be large for fp32 */
                const double weight[] = {-1.0 / 12, 8.0 / 12, -8.0 / 12, 1.0 / 12};
                const float at[] = {2 * h, h, -h, -2 * h};
                for (int d = 0; d < 4; d++) {
                    x[i] = old + at[d];
                    restore_accumulators(c, x, k);
                    difference += weight[d] * loss_of(c);
                }
                span = (double)h;
                x[i] = old;
                want[i] = difference / span;
            }
            EXPECT_LT(rel_l2(got[(size_t)k], want), 2e-3) << "input " << k;
        }
    }
}

TEST_P(Registry, BackwardWritesEveryElementAndRepeats)
{
    if (def->grad == nullptr) GTEST_SKIP() << "not differentiable";
    each(true, [](Case &c) {
        c.restore();
        ASSERT_HN_OK(c.run(false, true));
        std::vector<std::vector<double>> first(HN_MAX_IN);
        for (int k = 0; k < c.def->n_in; k++)
            if (c.in[k] && hn_graph_grad(c.g, c.in[k]))
                first[(size_t)k] = Case::get(hn_graph_grad(c.g, c.in[k]));
        c.restore();
        ASSERT_HN_OK(c.run(false, false));
        for (int k = 0; k < c.def->n_in; k++)
            EXPECT_TRUE(first[(size_t)k].empty() ||
                        first[(size_t)k] == Case::get(hn_graph_grad(c.g, c.in[k])));
        c.restore();
        ASSERT_HN_OK(c.run(true, false));
        for (int k = 0; k < c.def->n_in; k++) {
            if (first[(size_t)k].empty()) continue;
            const hn_tensor *d = hn_graph_grad(c.g, c.in[k]);
            const double tolerance = d->type.dtype == HN_F32 ? 5e-5 : 2e-2;
            EXPECT_LT(rel_l2(first[(size_t)k], Case::get(d)), tolerance) << "fast and twin, " << k;
        }
    });
}

#ifdef HONE_CUDA
/* fp32 sums in another order; bf16: some values round to the other neighbour, and products that the
 * header says are rounded in between are, also on their way to an fp32 output. */
double cuda_tolerance(hn_dtype t, bool in_bf16, bool rounded_inside)
{
    if (t == HN_BF16) return 1e-2;
    return in_bf16 ? (rounded_inside ? 6e-3 : 2e-3) : 2e-5;
}

class RegistryOnCuda : public Registry {
  protected:
    hn_device *device = nullptr;
    void SetUp() override
    {
        HN_NEED_CUDA();
        ASSERT_HN_OK(hn_device_open("cuda", &device));
    }
    void TearDown() override { hn_device_close(device); }
    void matches_twin(bool training)
    {
        for (int i = 0; def->samples[i].in[0].ndim; i++) {
            SCOPED_TRACE(std::string(def->name) + ", sample " + std::to_string(i));
            Case host(id, def->samples[i], training), gpu(id, def->samples[i], training, device);
            if (HasFailure()) return;
            ASSERT_HN_OK(host.run(true, false));
            ASSERT_HN_OK(gpu.run(false, true)); /* poison, guard bands, scan */
            for (int k = 0; k < def->n_out; k++)
                compare(host, host.out[k], gpu.out[k], "output", k,
                        (def->rounded_inside & HN_BIT(k)) != 0);
            for (int k = 0; training && k < def->n_in; k++)
                if (host.in[k])
                    compare(host, hn_graph_grad(host.g, host.in[k]),
                            hn_graph_grad(gpu.g, gpu.in[k]), "gradient of input", k);
        }
    }
    static void compare(const Case &c, const hn_tensor *want, const hn_tensor *got,
                        const char *what, int k, bool rounded_inside = false)
    {
        if (!want || !is_float(want->type.dtype)) return;
        EXPECT_LT(rel_l2(Case::get(got), Case::get(want)),
                  cuda_tolerance(want->type.dtype, c.sample.in[0].dtype == HN_BF16, rounded_inside))
            << what << " " << k;
    }
};

TEST_P(RegistryOnCuda, ForwardMatchesTwinAndWritesNothingElse) { matches_twin(false); }

TEST_P(RegistryOnCuda, BackwardMatchesTwinAndWritesNothingElse)
{
    if (def->grad == nullptr) GTEST_SKIP() << "not differentiable";
    matches_twin(true);
}

TEST_P(RegistryOnCuda, RepeatsBitForBitAndFromACapturedGraph)
{
    each(
        false,
        [](Case &c) {
            std::vector<unsigned char> first;
            for (int pass = 0; pass < 4; pass++) { /* two node by node, two replays */
                c.restore();
                if (pass == 2) {
                    ASSERT_HN_OK(hn_graph_capture(c.g, c.device_step));
                }
                ASSERT_HN_OK(c.run(false, false));
                ASSERT_HN_OK(hn_device_wait(c.device));
                if (pass == 0) first = c.output_bytes();
                EXPECT_TRUE(first == c.output_bytes()) << "pass " << pass;
            }
        },
        device);
}

/* A replay reads numbers that change from step to step when it runs. */
TEST_P(RegistryOnCuda, ReplayReadsTheStepBlock)
{
    each(
        false,
        [](Case &c) {
            ASSERT_HN_OK(c.run(false, false));
            ASSERT_HN_OK(hn_graph_capture(c.g, c.device_step));
            c.restore();
            c.step.seed += 5;
            c.step.lr *= 2;
            ASSERT_HN_OK(c.run(false, false));
            const auto replay = c.output_bytes();
            Case fresh(hn_graph_node(c.g, 0)->op, c.sample, false, c.device);
            fresh.step = c.step;
            ASSERT_HN_OK(fresh.run(false, false));
            EXPECT_TRUE(replay == fresh.output_bytes());
        },
        device);
}

INSTANTIATE_TEST_SUITE_P(Rows, RegistryOnCuda, ::testing::Range(0, (int)HN_OP_COUNT),
                         [](const auto &i) { return std::string(hn_op((hn_op_id)i.param)->name); });
#endif

TEST_P(Registry, HasACudaFunction) { EXPECT_NE(def->run_cuda, nullptr) << def->name; }

INSTANTIATE_TEST_SUITE_P(Rows, Registry, ::testing::Range(0, (int)HN_OP_COUNT),
                         [](const auto &i) { return std::string(hn_op((hn_op_id)i.param)->name); });

} // namespace
