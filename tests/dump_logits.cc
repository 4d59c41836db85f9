/* dump_logits MODEL ADAPTER OUT: writes tokens [64] and hone's logits [64, vocab] of a model with
 * an adapter, for tests/golden/peft_check.py to compare with what PEFT computes. */
#include <cstdio>
#include <vector>

#include "runtime/file/safetensors.h"
#include "runtime/graph/tensor.h"
#include "runtime/model/model.h"
#include "runtime/train/decoder_job.h"
#include "runtime/train/lora_hook.h"

static hn_status dump(const char *dir, const char *adapter, const char *out)
{
    constexpr int64_t rows = 64;
    hn_model model = {};
    hn_peft_adapter a = {};
    HN_TRY(hn_model_open(dir, "f32", nullptr, &model));
    HN_TRY(hn_peft_load(adapter, &a));
    const hn_adapt adapt = hn_lora_hook(&a.config);
    hn_engine_options o = {};
    hn_decoder_options d = {};
    hn_decoder_job job;
    d.decoder = &model.decoder;
    o.adapt = &adapt;
    o.dtype = HN_F32;
    d.logits_rows = rows;
    hn_engine *e = nullptr;
    hn_decoder_job_init(&job, &d);
    o.job = &job.job;
    HN_TRY(hn_engine_new(&o, &e));
    HN_TRY(hn_engine_allocate(e));
    HN_TRY(hn_model_load(&model, hn_engine_params(e), 0));
    HN_TRY(hn_lora_set(hn_engine_params(e), &a, adapter));
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < rows; i++)
        tokens.push_back((int32_t)((i * i * 13 + 7 * i + 3) % model.decoder.vocab));
    const hn_tensor *t = nullptr;
    HN_TRY(hn_decoder_logits(&job, e, tokens.data(), rows, &t));
    std::vector<float> logits((size_t)hn_type_elements(&t->type));
    HN_TRY(hn_tensor_get(t, logits.data()));
    hn_st_entry entry[2] = {};
    entry[0].name = "tokens";
    entry[0].dtype = HN_ST_I32;
    entry[0].ndim = 1;
    entry[0].dim[0] = rows;
    entry[0].data = tokens.data();
    entry[1].name = "logits";
    entry[1].dtype = HN_ST_F32;
    entry[1].ndim = 2;
    entry[1].dim[0] = rows;
    entry[1].dim[1] = model.decoder.vocab;
    entry[1].data = logits.data();
    HN_TRY(hn_st_save(out, entry, 2, nullptr, 0, nullptr, nullptr));
    hn_engine_free(e);
    hn_peft_clear(&a);
    hn_model_close(&model);
    return HN_OK;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        std::fprintf(stderr, "usage: dump_logits MODEL ADAPTER OUT.safetensors\n");
        return 2;
    }
    const hn_status st = dump(argv[1], argv[2], argv[3]);
    if (st != HN_OK) std::fprintf(stderr, "dump_logits: %s\n", hn_last_error());
    return hn_status_exit_code(st);
}
