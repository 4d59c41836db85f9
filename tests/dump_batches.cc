/* dump_batches N OUT.safetensors [options of hone-lora train]: writes the first N micro-batches and
 * all held-out batches that a run with these options sees, for bench/peer_bf16_spread.py.
 *
 *   train.tokens, train.labels, train.positions   I32 [N, batch-size * seq-len]
 *   train.offsets                                 I32 [N, sequences + 1]
 *   eval.*                                        the same; absent when nothing is held out */
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "runtime/base/alloc.h"
#include "runtime/file/safetensors.h"
#include "runtime/train/session.h"

namespace {

enum { TOKENS, LABELS, POSITIONS, OFFSETS, N_ARRAYS };
const char *const kNames[N_ARRAYS] = {"tokens", "labels", "positions", "offsets"};

struct Part {
    std::string name[N_ARRAYS];
    std::vector<int32_t> values[N_ARRAYS];
    int64_t cols[N_ARRAYS] = {};
    int64_t n = 0; /* micro-batches */
};

hn_status fill(const hn_loader *l, const char *prefix, int64_t n, Part *out)
{
    const hn_loader_options *o = hn_loader_settings(l);
    out->n = n;
    for (int k = 0; k < N_ARRAYS; k++) {
        out->name[k] = std::string(prefix) + "." + kNames[k];
        out->cols[k] = k == OFFSETS ? hn_loader_max_seqs(l) + 1 : o->batch_rows * o->seq_len;
        out->values[k].resize((size_t)(n * out->cols[k]));
    }
    for (int64_t m = 0; m < n; m++) {
        hn_batch b = {};
        int32_t **const field[N_ARRAYS] = {&b.tokens, &b.labels, &b.positions, &b.seq_offsets};
        for (int k = 0; k < N_ARRAYS; k++) *field[k] = out->values[k].data() + m * out->cols[k];
        HN_TRY(hn_loader_fill(l, m, &b));
    }
    return HN_OK;
}

hn_status save(const std::vector<Part> &parts, const char *path)
{
    std::vector<hn_st_entry> entries;
    for (const Part &p : parts)
        for (int k = 0; k < N_ARRAYS; k++) {
            hn_st_entry e = {};
            e.name = p.name[k].c_str();
            e.dtype = HN_ST_I32;
            e.ndim = 2;
            e.dim[0] = p.n;
            e.dim[1] = p.cols[k];
            e.data = p.values[k].data();
            entries.push_back(e);
        }
    return hn_st_save(path, entries.data(), (int64_t)entries.size(), nullptr, 0, nullptr, nullptr);
}

/* Data, tokenizer and loaders are opened by the code that `train` uses. */
hn_status dump(int64_t n, const char *out, hn_session *s)
{
    HN_TRY(hn_model_open(s->run->model, s->run->dtype, nullptr, &s->model));
    HN_TRY(hn_session_data(s, false));
    std::vector<Part> parts(s->eval ? 2 : 1);
    HN_TRY(fill(s->text.train_loader, "train", n, &parts[0]));
    if (s->eval) HN_TRY(fill(s->text.eval_loader, "eval", hn_feed_batches(s->eval), &parts[1]));
    return save(parts, out);
}

hn_status run(int argc, char **argv)
{
    const int64_t n = std::atoll(argv[1]);
    if (n < 1) return HN_FAIL(HN_ERR_ARG, "%s micro-batches", argv[1]);
    hn_run_config config = {};
    hn_option_table table = {};
    hn_options_store *store = nullptr;
    HN_TRY(hn_run_table(HN_GROUP_MODEL | HN_GROUP_DATA | HN_GROUP_BATCH | HN_GROUP_TRAIN |
                            HN_GROUP_MACHINE,
                        nullptr, 0, &table));
    /* argv[2] stands where the parser skips the program's name */
    hn_status st = hn_options_parse(table.row, table.n, argc - 2, argv + 2, &config, &store);
    if (st == HN_OK) {
        hn_session session = {};
        session.run = &config;
        session.given = store;
        st = dump(n, argv[2], &session);
        hn_session_close(&session);
    }
    hn_options_free(store);
    hn_free(table.row);
    return st;
}

} // namespace

int main(int argc, char **argv)
{
    if (argc < 3) {
        std::fprintf(stderr, "usage: dump_batches N OUT.safetensors [--option value]\n");
        return 2;
    }
    const hn_status st = run(argc, argv);
    if (st != HN_OK) std::fprintf(stderr, "dump_batches: %s\n", hn_last_error());
    return hn_status_exit_code(st);
}
