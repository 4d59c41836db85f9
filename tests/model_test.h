/* model_test.h - a model without trainer or session, on the device of HONE_TEST_DEVICE (else the
 * CPU): parameters from a safetensors file, graphs of its builder, values and gradients. */
#ifndef HN_MODEL_TEST_H
#define HN_MODEL_TEST_H
#include "hn_test.h"
#include "runtime/adapt/params.h"
#include "runtime/base/json.h"
#include "runtime/file/safetensors.h"
#include "runtime/graph/plan.h"
#include "runtime/graph/run.h"
#include "runtime/graph/tensor.h"

struct StFile {
    hn_st_file *f = nullptr;
    explicit StFile(const std::string &path) { EXPECT_HN_OK(hn_st_open(path.c_str(), &f)); }
    ~StFile() { hn_st_close(f); }
    StFile(const StFile &) = delete;
    bool has(const std::string &name) const { return hn_st_find(f, name.c_str()) != nullptr; }
    template <class T>
    std::vector<T> values(const std::string &name, hn_dtype dtype) const
    {
        const hn_st_tensor *t = hn_st_find(f, name.c_str());
        EXPECT_NE(t, nullptr) << name;
        std::vector<T> v(t ? (size_t)hn_st_elements(t) : 0);
        if (t != nullptr) {
            EXPECT_HN_OK(hn_st_convert(t, dtype, v.data()));
        }
        return v;
    }
    std::vector<float> floats(const std::string &name) const { return values<float>(name, HN_F32); }
    std::vector<int32_t> ints(const std::string &name) const
    {
        return values<int32_t>(name, HN_I32);
    }
    std::vector<int64_t> shape(const std::string &name) const
    {
        const hn_st_tensor *t = hn_st_find(f, name.c_str());
        EXPECT_NE(t, nullptr) << name;
        return t ? std::vector<int64_t>(t->dim, t->dim + t->ndim) : std::vector<int64_t>();
    }
};

/* A parsed JSON text. */
struct JsonText {
    json_t *root = nullptr;
    explicit JsonText(const std::string &text)
    {
        EXPECT_HN_OK(hn_json_parse(text.data(), text.size(), "text", &root));
    }
    ~JsonText() { json_decref(root); }
    JsonText(const JsonText &) = delete;
};

inline hn_adapt_kind train_all(const void *, const char *) { return HN_ADAPT_FULL; }

/* Declare, create(), record graphs, plan(), load() or fill tensors, run(). */
class ModelRun {
  public:
    hn_device *device = nullptr;
    hn_program *program = nullptr;
    hn_params *params = nullptr;
    hn_tensor *step = nullptr; /* zeros */
    hn_params_options options = {.dtype = HN_F32};

    explicit ModelRun(bool trained, hn_dtype dtype = HN_F32)
    {
        const hn_adapt adapt = {
            .parameter = trained ? train_all : nullptr, .linear = nullptr, .context = nullptr};
        options.dtype = dtype;
        options.gradients = trained;
        const hn_type block = hn_type_1d(HN_U8, sizeof(hn_step_block));
        EXPECT_HN_OK(hn_device_open(test_device(), &device));
        EXPECT_HN_OK(hn_program_new(1, &program));
        EXPECT_HN_OK(hn_program_tensor(program, HN_MEM_STATE, "step", &block, &step));
        EXPECT_HN_OK(hn_params_new(&adapt, &params));
    }
    ~ModelRun()
    {
        hn_params_free(params);
        hn_program_free(program);
        hn_device_close(device);
    }
    ModelRun(const ModelRun &) = delete;
    void create() { ASSERT_HN_OK(hn_params_create(params, program, &options)); }
    hn_tensor *input(const char *name, const hn_type &type)
    {
        hn_tensor *t = nullptr;
        EXPECT_HN_OK(hn_program_tensor(program, HN_MEM_INPUT, name, &type, &t));
        return t;
    }
    hn_graph *graph(const char *name, bool training)
    {
        hn_graph *g = nullptr;
        EXPECT_HN_OK(hn_graph_new(program, name, training, &g));
        return g;
    }
    void plan(size_t guard = 0)
    {
        const hn_plan_options o = {.device = device, .guard_bytes = guard};
        ASSERT_HN_OK(hn_plan_build(program, &o));
        ASSERT_HN_OK(hn_plan_allocate(program));
    }
    void load(const StFile &f)
    {
        for (int64_t i = 0; i < hn_params_count(params); i++) {
            const hn_param *q = hn_params_at(params, i);
            const std::vector<int64_t> shape(q->file_dim, q->file_dim + q->file_ndim);
            EXPECT_EQ(f.shape(q->name), shape) << q->name;
            const auto v = f.floats(q->name);
            ASSERT_EQ((int64_t)v.size(), hn_param_values(q)) << q->name;
            ASSERT_HN_OK(hn_param_set(q, v.data()));
        }
    }
    bool on_cpu() const { return hn_device_kind_of(device) == HN_DEVICE_CPU; }
    void run(hn_graph *g, bool twin = false)
    {
        auto *block = static_cast<hn_step_block *>(step->data);
        const hn_run_options o = {.step = block, .twin = twin, .check = true};
        ASSERT_HN_OK(hn_graph_run(g, &o));
    }
    static std::vector<float> values(const hn_tensor *t)
    {
        std::vector<float> v((size_t)hn_type_elements(&t->type));
        EXPECT_HN_OK(hn_tensor_get(t, v.data()));
        return v;
    }
    /* In the order of files. */
    std::vector<float> value(const std::string &name) const
    {
        const hn_param *q = hn_params_find(params, name.c_str());
        EXPECT_NE(q, nullptr) << name;
        std::vector<float> v(q ? (size_t)hn_param_values(q) : 0);
        if (q != nullptr) {
            EXPECT_HN_OK(hn_param_get(q, v.data()));
        }
        return v;
    }
    static std::vector<float> gradient(const hn_param *q)
    {
        std::vector<float> v((size_t)hn_param_values(q));
        EXPECT_HN_OK(hn_param_read(q, q->grad, v.data()));
        return v;
    }
    /* Every gradient by its two numbers under "<mode>.grad.<name>", and none is left over. */
    void expect_gradients(const StFile &f, const std::string &mode, double tolerance) const
    {
        for (int64_t i = 0; i < hn_params_count(params); i++) {
            const hn_param *q = hn_params_at(params, i);
            if (q->buffer) continue;
            const auto want = f.floats(mode + ".grad." + q->name);
            ASSERT_EQ(want.size(), 2u);
            const auto g = gradient(q);
            double norm = 0, probe = 0;
            for (size_t k = 0; k < g.size(); k++) {
                norm += (double)g[k] * (double)g[k];
                probe += (double)g[k] * std::cos((double)k);
            }
            const double most = tolerance * (double)want[0] + 1e-6;
            EXPECT_NEAR(std::sqrt(norm), (double)want[0], most) << mode << " " << q->name;
            EXPECT_NEAR(probe, (double)want[1], 2 * most) << mode << " " << q->name;
        }
    }
    void zero_gradients()
    {
        for (int64_t i = 0; i < hn_params_count(params); i++) {
            const hn_param *q = hn_params_at(params, i);
            const std::vector<float> zero((size_t)hn_param_values(q));
            if (q->grad != nullptr) {
                ASSERT_HN_OK(hn_tensor_set(q->grad, zero.data()));
            }
        }
    }
};

/* The output of the node with that name and operation; NULL with a failure. */
inline hn_tensor *made_by(hn_graph *g, hn_op_id op, const std::string &name, int out = 0)
{
    for (int64_t i = 0; i < hn_graph_nodes(g); i++) {
        const hn_node *n = hn_graph_node(g, i);
        if (n->op == op && name == n->name) return n->out[out];
    }
    ADD_FAILURE() << "no node " << name;
    return nullptr;
}

#endif
