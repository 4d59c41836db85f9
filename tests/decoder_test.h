/* decoder_test.h - a decoder with its engine, on the device of HONE_TEST_DEVICE (else the CPU). */
#ifndef HN_DECODER_TEST_H
#define HN_DECODER_TEST_H
#include "engine_test.h"
#include "runtime/graph/tensor.h"
#include "runtime/model/model.h"
#include "runtime/train/decoder_job.h"

/* A model with its engine. */
class Engine {
  public:
    hn_device *device = nullptr;
    hn_model model = {};
    hn_engine *e = nullptr;
    hn_engine_options o = {};
    hn_decoder_options d = {};
    hn_decoder_job job = {};

    explicit Engine(const std::string &dir, const char *dtype = "f32")
    {
        EXPECT_HN_OK(hn_device_open(test_device(), &device));
        EXPECT_HN_OK(hn_model_open(dir.c_str(), dtype, nullptr, &model));
        o.device = device;
        o.executor = test_executor();
        d.decoder = &model.decoder;
        o.dtype = model.dtype;
        o.optimizer.beta1 = 0.9;
        o.optimizer.beta2 = 0.999;
        o.optimizer.eps = 1e-8;
    }
    ~Engine()
    {
        hn_engine_free(e);
        hn_model_close(&model);
        hn_device_close(device);
    }
    Engine(const Engine &) = delete;
    hn_status make(hn_engine **out)
    {
        hn_decoder_job_init(&job, &d);
        o.job = &job.job;
        return hn_engine_new(&o, out);
    }
    void open(uint64_t seed = 0)
    {
        o.seed = seed;
        EXPECT_HN_OK(make(&e));
        ASSERT_NE(e, nullptr);
        EXPECT_HN_OK(hn_model_check(&model, params(), nullptr));
        EXPECT_HN_OK(hn_engine_allocate(e));
        EXPECT_HN_OK(hn_model_load(&model, params(), seed));
    }
    hn_params *params() const { return hn_engine_params(e); }
    std::vector<float> logits(const std::vector<int32_t> &tokens) const
    {
        const hn_tensor *t = nullptr;
        EXPECT_HN_OK(hn_decoder_logits(&job, e, tokens.data(), (int64_t)tokens.size(), &t));
        std::vector<float> v = values(t);
        v.resize(tokens.size() * (size_t)model.decoder.vocab);
        return v;
    }
    /* Rows of `length` tokens from the places in `start`; labels are the next tokens. */
    void fill(const std::vector<int32_t> &ids, const std::vector<int64_t> &start) const
    {
        hn_engine_input in;
        EXPECT_HN_OK(hn_engine_batch(e, &in));
        const hn_decoder_batch to = hn_decoder_batch_of(&in);
        const int64_t n = d.seq_len;
        for (size_t r = 0; r < start.size(); r++) {
            to.offsets[r] = (int32_t)((int64_t)r * n);
            for (int64_t i = 0; i < n; i++) {
                const size_t at = r * (size_t)n + (size_t)i;
                to.tokens[at] = ids[(size_t)(start[r] + i)];
                to.labels[at] = ids[(size_t)(start[r] + i + 1)];
                to.positions[at] = (int32_t)i;
            }
        }
        for (int64_t s = (int64_t)start.size(); s <= d.max_seqs; s++)
            to.offsets[s] = (int32_t)((int64_t)start.size() * n);
    }
    std::vector<float> gradient(const hn_param *p) const { return values(p->grad); }
    static std::vector<float> values(const hn_tensor *t)
    {
        std::vector<float> v((size_t)hn_type_elements(&t->type));
        EXPECT_HN_OK(hn_tensor_get(t, v.data()));
        return v;
    }
};

#endif
