/* sparse_test.h - small models of which blocks are trained. */
#ifndef HN_SPARSE_TEST_H
#define HN_SPARSE_TEST_H
#include <functional>
#include <map>
#include <set>

#include "classifier_test.h"
#include "runtime/model/model.h"
#include "runtime/train/decoder_job.h"

/* Blocks of each matrix, by the order of the matrices. */
struct Lists {
    std::vector<int64_t> first = {0};
    std::vector<int32_t> id;
    void add(const std::vector<int32_t> &ids)
    {
        id.insert(id.end(), ids.begin(), ids.end());
        first.push_back((int64_t)id.size());
    }
    hn_block_lists view() const { return {first.data(), id.data()}; }
};

/* n ascending ids below `all`. */
inline std::vector<int32_t> some_ids(int64_t all, int64_t n, unsigned seed)
{
    std::vector<int32_t> ids((size_t)all);
    std::mt19937 rng(seed);
    for (size_t i = 0; i < ids.size(); i++) ids[i] = (int32_t)i;
    std::shuffle(ids.begin(), ids.end(), rng);
    ids.resize((size_t)std::min(n, all));
    std::sort(ids.begin(), ids.end());
    return ids;
}

/* What the hook answers: shapes of blocks, by module and size. */
struct SparseChoice {
    std::function<hn_block_shape(const std::string &, int64_t, int64_t)> shape;
    int64_t rank = 0;
    static hn_status sparse(const void *c, const char *module, int64_t in, int64_t out,
                            hn_block_shape *choice)
    {
        *choice = ((const SparseChoice *)c)->shape(module, in, out);
        return HN_OK;
    }
    static hn_status lowrank(const void *c, const char *, int64_t, int64_t, hn_lowrank *choice)
    {
        choice->rank = ((const SparseChoice *)c)->rank;
        choice->scale = 2;
        return HN_OK;
    }
    hn_adapt adapt() const
    {
        return {.parameter = nullptr,
                .linear = rank > 0 ? lowrank : nullptr,
                .sparse = sparse,
                .context = this};
    }
};

/* Squares of `side` wherever they divide the matrix. */
inline SparseChoice squares(int64_t side)
{
    return {.shape = [side](const std::string &, int64_t in, int64_t out) -> hn_block_shape {
        if (in % side != 0 || out % side != 0) return {0, 0};
        return {side, side};
    }};
}

/* Rows, columns and squares, by the layer of a decoder. */
inline SparseChoice mixed()
{
    return {.shape = [](const std::string &name, int64_t in, int64_t out) -> hn_block_shape {
        if (name.find("q_proj") != std::string::npos) return {1, in};
        if (name.find("o_proj") != std::string::npos) return {out, 1};
        if (name.find("v_proj") != std::string::npos) return {16, 16};
        if (name.find("down_proj") != std::string::npos) return {4, 4};
        if (name.find("up_proj") != std::string::npos) return {1, 1};
        return {0, 0};
    }};
}

/* The blocks of an engine's parameters. */
class Blocks {
  public:
    hn_sparse *s = nullptr;
    Blocks() = default;
    explicit Blocks(const hn_engine *e) : s(hn_params_sparse(hn_engine_params(e))) {}
    int64_t n() const { return hn_sparse_matrices(s); }
    const hn_sparse_matrix &at(int64_t i) const { return *hn_sparse_at(s, i); }
    std::vector<int32_t> ids(int64_t i, hn_block_set set = HN_BLOCKS_TRAINED) const
    {
        const int32_t *p = hn_sparse_ids(s, set, i);
        return {p, p + hn_sparse_count(s, set, i)};
    }
    /* As many of each matrix as fit its share, rounded down but at least `least`. */
    Lists share(unsigned seed, int64_t least = 0, double factor = 1) const
    {
        Lists l;
        for (int64_t i = 0; i < n(); i++)
            l.add(some_ids(at(i).blocks, std::max(least, (int64_t)(at(i).share * factor)),
                           seed + (unsigned)i));
        return l;
    }
    Lists all() const
    {
        Lists l;
        for (int64_t i = 0; i < n(); i++) l.add(some_ids(at(i).blocks, at(i).blocks, 0));
        return l;
    }
    void select(const Lists &l, bool keep = false, const hn_block_start *start = nullptr) const
    {
        const hn_block_lists v = l.view();
        ASSERT_HN_OK(hn_sparse_select(s, &v, start, keep));
    }
    void watch(const Lists &l) const
    {
        const hn_block_lists v = l.view();
        ASSERT_HN_OK(hn_sparse_watch(s, &v));
    }
    std::vector<float> get(hn_sparse_part part, int64_t i) const
    {
        std::vector<float> v(
            (size_t)(hn_sparse_count(s, hn_sparse_set_of(part), i) * at(i).values));
        EXPECT_HN_OK(hn_sparse_get(s, part, i, v.data()));
        return v;
    }
    std::vector<float> get(hn_sparse_part part) const
    {
        std::vector<float> all;
        for (int64_t i = 0; i < n(); i++) {
            const auto v = get(part, i);
            all.insert(all.end(), v.begin(), v.end());
        }
        return all;
    }
    std::vector<uint16_t> ages(int64_t i) const
    {
        std::vector<uint16_t> v((size_t)hn_sparse_count(s, HN_BLOCKS_TRAINED, i));
        EXPECT_HN_OK(hn_sparse_get_ages(s, i, v.data()));
        return v;
    }
    /* Of value k of the list of matrix i: its place in W, in the order of storage. */
    size_t place(int64_t i, const std::vector<int32_t> &id, size_t k) const
    {
        const hn_sparse_matrix &m = at(i);
        const int64_t b = id[k / (size_t)m.values], in = (int64_t)(k % (size_t)m.values);
        const int64_t row = hn_block_row(m.shape, m.in, b) + in / m.shape.bc;
        const int64_t col = hn_block_col(m.shape, m.in, b) + in % m.shape.bc;
        return (size_t)(row * m.in + col);
    }
    /* Of a dense matrix in the order of storage, what belongs to the blocks of a list. */
    std::vector<float> pick(int64_t i, const std::vector<int32_t> &id,
                            const std::vector<float> &dense) const
    {
        std::vector<float> v(id.size() * (size_t)at(i).values);
        for (size_t k = 0; k < v.size(); k++) v[k] = dense[place(i, id, k)];
        return v;
    }
    std::vector<float> weight(int64_t i) const
    {
        std::vector<float> v((size_t)(at(i).out * at(i).in));
        EXPECT_HN_OK(hn_tensor_get(at(i).w, v.data()));
        return v;
    }
    std::vector<float> weights() const
    {
        std::vector<float> all;
        for (int64_t i = 0; i < n(); i++) {
            const auto v = weight(i);
            all.insert(all.end(), v.begin(), v.end());
        }
        return all;
    }
};

/* A decoder of two layers on random tokens. */
class SmallDecoder {
  public:
    hn_device *device = nullptr;
    hn_model model = {};
    hn_engine *e = nullptr;
    hn_engine_options o = {};
    hn_decoder_options d = {};
    hn_decoder_job job = {};
    SparseChoice choice;
    hn_adapt adapt = {};

    explicit SmallDecoder(const char *dtype = "f32")
    {
        omp_set_num_threads(1);
        EXPECT_HN_OK(hn_device_open(test_device(), &device));
        EXPECT_HN_OK(hn_model_open("tests/fixtures/models/llama", dtype, nullptr, &model));
        o.device = device;
        o.executor = test_executor();
        o.dtype = model.dtype;
        o.train = o.eval = true;
        o.optimizer.beta1 = 0.9, o.optimizer.beta2 = 0.999, o.optimizer.eps = 1e-8;
        d.decoder = &model.decoder;
        d.batch_rows = 2, d.seq_len = 12, d.max_seqs = 2;
    }
    ~SmallDecoder()
    {
        hn_engine_free(e);
        hn_model_close(&model);
        hn_device_close(device);
    }
    SmallDecoder(const SmallDecoder &) = delete;
    hn_status make(const SparseChoice &c)
    {
        choice = c;
        adapt = choice.adapt();
        return make();
    }
    hn_status make()
    {
        hn_decoder_job_init(&job, &d);
        o.job = &job.job;
        o.adapt = &adapt;
        return hn_engine_new(&o, &e);
    }
    void open(const SparseChoice &c)
    {
        choice = c;
        adapt = choice.adapt();
        open();
    }
    void open()
    {
        ASSERT_HN_OK(make());
        ASSERT_HN_OK(hn_engine_allocate(e));
        ASSERT_HN_OK(hn_model_load(&model, hn_engine_params(e), 0));
        for (int64_t i = 0; i < hn_params_count(hn_engine_params(e)); i++) {
            const hn_param *q = hn_params_at(hn_engine_params(e), i);
            if (q->adapter) { /* both factors: gradients of both */
                const auto v = normal_f32((size_t)hn_param_values(q), (unsigned)q->key, 0, 0.1f);
                ASSERT_HN_OK(hn_param_set(q, v.data()));
            }
        }
    }
    Blocks blocks() const { return Blocks(e); }
    void fill(unsigned seed) const
    {
        hn_engine_input in;
        ASSERT_HN_OK(hn_engine_batch(e, &in));
        const hn_decoder_batch to = hn_decoder_batch_of(&in);
        std::mt19937 rng(seed);
        for (int64_t i = 0; i < d.batch_rows * d.seq_len; i++) {
            to.tokens[i] = (int32_t)(rng() % 64);
            to.labels[i] = i % 5 == 4 ? -100 : (int32_t)(rng() % 64);
            to.positions[i] = (int32_t)(i % d.seq_len);
        }
        for (int64_t r = 0; r <= d.max_seqs; r++) to.offsets[r] = (int32_t)(r * d.seq_len);
    }
    /* The gradients of micro-batches first .. first+n-1, without an update. */
    void accumulate(int64_t step, unsigned first = 0, unsigned n = 1) const
    {
        ASSERT_HN_OK(hn_engine_begin(e, step));
        for (unsigned k = 0; k < n; k++) {
            fill(first + k);
            ASSERT_HN_OK(hn_engine_micro(e, (int64_t)k));
        }
    }
    hn_step_report step(int64_t number, unsigned n = 1, double lr = 1e-2) const
    {
        hn_step_report r = {};
        accumulate(number, (unsigned)number * n, n);
        EXPECT_HN_OK(hn_engine_update(e, lr, &r));
        return r;
    }
    double loss(unsigned seed) const
    {
        hn_eval_sums sums = {};
        EXPECT_HN_OK(hn_engine_eval_begin(e));
        fill(seed);
        EXPECT_HN_OK(hn_engine_eval_batch(e));
        EXPECT_HN_OK(hn_engine_eval_sums(e, &sums));
        return sums.loss;
    }
    std::vector<float> gradient(const std::string &name) const
    {
        const hn_param *q = hn_params_find(hn_engine_params(e), name.c_str());
        std::vector<float> v(q ? (size_t)hn_param_values(q) : 0);
        EXPECT_HN_OK(hn_tensor_get(q->grad, v.data()));
        return v;
    }
};

#endif
