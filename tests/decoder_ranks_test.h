/* A small decoder that a rank trains, on batches that are the same in every test: what tests of
 * engines of several ranks have in common. */
#ifndef HN_DECODER_RANKS_TEST_H
#define HN_DECODER_RANKS_TEST_H
#include <fstream>

#include "hn_test.h"
#include "ranks_test.h"
#include "runtime/model/model.h"
#include "runtime/train/decoder_job.h"
#include "runtime/train/engine.h"

/* Set options between open_model() and open_engine(). */
class RankDecoder {
  public:
    const Rank &rank;
    TempDir dir;
    hn_device *device = nullptr; /* NULL: it cannot be opened, which has been said */
    hn_comm *comm = nullptr;
    hn_engine *e = nullptr;
    hn_engine_options o = {};
    hn_model model = {};
    hn_decoder_options d = {};
    hn_decoder_job job = {};
    hn_adapt adapt = {};

    RankDecoder(const Rank &r, hn_dtype dtype) : rank(r)
    {
        EXPECT_HN_OK(hn_device_open(r.device.c_str(), &device));
        if (device == nullptr) return;
        if (r.hub != nullptr) comm = r.join(device);
        d.batch_rows = 2;
        d.seq_len = 16;
        d.max_seqs = 2;
        o.device = device;
        o.job = &job.job;
        o.adapt = &adapt;
        o.dtype = dtype;
        o.train = true;
        o.seed = 7;
    }
    ~RankDecoder()
    {
        hn_engine_free(e);
        hn_comm_close(comm, !::testing::Test::HasFailure());
        hn_model_close(&model);
        hn_device_close(device);
    }
    RankDecoder(const RankDecoder &) = delete;

    std::string config(const char *json) const
    {
        const std::string path = dir / "config.json";
        std::ofstream(path) << json;
        return path;
    }
    void open_model(const std::string &path)
    {
        const char *dtype = o.dtype == HN_F32 ? "f32" : "bf16";
        ASSERT_HN_OK(hn_model_open(path.c_str(), dtype, nullptr, &model));
        d.decoder = &model.decoder;
        hn_decoder_job_init(&job, &d);
    }
    void open_engine()
    {
        ASSERT_HN_OK(hn_engine_new(&o, &e));
        ASSERT_HN_OK(hn_engine_allocate(e));
        ASSERT_HN_OK(hn_model_load(&model, hn_engine_params(e), 5));
    }
    /* Two rows of 16 tokens, of which four fifths count. */
    void fill(int64_t number)
    {
        hn_engine_input in;
        ASSERT_HN_OK(hn_engine_batch(e, &in));
        const hn_decoder_batch b = hn_decoder_batch_of(&in);
        for (int64_t i = 0; i < 32; i++) {
            const int64_t t = number * 32 + i;
            b.tokens[i] = (int32_t)((t * t / 3 + t) % 61);
            b.labels[i] = i % 5 == number % 5 ? -100 : (int32_t)((t + 1) % 61);
            b.positions[i] = (int32_t)(i % 16);
        }
        for (int32_t s = 0; s < 3; s++) b.offsets[s] = s * 16;
    }
};
#endif
