/* attention_test.h - a problem of packed attention, on the host and on the device. */
#ifndef HN_ATTENTION_TEST_H
#define HN_ATTENTION_TEST_H
#include "hn_test.h"
#include "kernels/attention/attention.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

struct Shape {
    const char *name;
    std::vector<int32_t> q_offsets, kv_offsets; /* kv empty: the same */
    int64_t q_rows, kv_rows, heads, kv_heads, head_dim, value_dim, window;
    float softcap;
    bool causal;
    int64_t longest = 0;
};

inline std::ostream &operator<<(std::ostream &o, const Shape &s) { return o << s.name; }

/* Buffers of one problem, every operand with its own gap between rows. */
template <class T>
struct Problem {
    const Shape s;
    const int64_t dv, q_cols, k_cols, v_cols, o_cols;
    const int64_t ld_q, ld_k, ld_v, ld_o;
    GuardedArray<T> q, k, v, o, dout, dq, dk, dvalue;
    GuardedArray<float> lse;

    explicit Problem(const Shape &shape, int64_t gap = 3)
        : s(shape), dv(s.value_dim ? s.value_dim : s.head_dim), q_cols(s.heads * s.head_dim),
          k_cols(s.kv_heads * s.head_dim), v_cols(s.kv_heads * dv), o_cols(s.heads * dv),
          ld_q(q_cols + gap), ld_k(k_cols + 2 * gap), ld_v(v_cols + gap), ld_o(o_cols + 3 * gap),
          q(fill(s.q_rows, ld_q, q_cols, 1)), k(fill(s.kv_rows, ld_k, k_cols, 2)),
          v(fill(s.kv_rows, ld_v, v_cols, 3)), o((size_t)(s.q_rows * ld_o)),
          dout(fill(s.q_rows, ld_o, o_cols, 4)), dq((size_t)(s.q_rows * ld_q)),
          dk((size_t)(s.kv_rows * ld_k)), dvalue((size_t)(s.kv_rows * ld_v)),
          lse((size_t)(s.q_rows * s.heads))
    {
    }
    static std::vector<T> fill(int64_t rows, int64_t ld, int64_t cols, unsigned seed)
    {
        const auto x = normal_f32((size_t)(rows * ld), seed);
        std::vector<T> y((size_t)(rows * ld));
        for (int64_t i = 0; i < rows * ld; i++) /* gaps hold NaN */
            set(y[(size_t)i], i % ld < cols ? x[(size_t)i] : NAN);
        return y;
    }
    static void set(float &y, float x) { y = x; }
    static void set(hn_bf16 &y, float x) { y = hn_bf16_from_f32(x); }
    hn_attention_args args()
    {
        return {.q = q.data(),
                .k = k.data(),
                .v = v.data(),
                .q_offsets = s.q_offsets.data(),
                .kv_offsets = s.kv_offsets.empty() ? nullptr : s.kv_offsets.data(),
                .o = o.data(),
                .lse = lse.data(),
                .dout = dout.data(),
                .dq = dq.data(),
                .dk = dk.data(),
                .dv = dvalue.data(),
                .ld_q = ld_q,
                .ld_k = ld_k,
                .ld_v = ld_v,
                .ld_o = ld_o,
                .ld_dout = ld_o,
                .ld_dq = ld_q,
                .ld_dk = ld_k,
                .ld_dv = ld_v,
                .q_rows = s.q_rows,
                .kv_rows = s.kv_rows,
                .sequences = (int64_t)s.q_offsets.size() - 1,
                .heads = s.heads,
                .kv_heads = s.kv_heads,
                .head_dim = s.head_dim,
                .value_dim = s.value_dim,
                .window = s.window,
                .longest = s.longest,
                .scale = 1.0f / std::sqrt((float)s.head_dim),
                .softcap = s.softcap,
                .causal = s.causal,
                .dtype = sizeof(T) == 2 ? HN_BF16 : HN_F32};
    }
    /* Columns of an array without the gaps, which must still hold the poison. */
    template <class Array>
    static auto columns(Array &x, int64_t cols, int64_t ld)
    {
        const auto all = x.host();
        std::decay_t<decltype(all)> y;
        for (size_t i = 0; i < all.size(); i++)
            if ((int64_t)i % ld < cols)
                y.push_back(all[i]);
            else
                EXPECT_TRUE(std::isnan(as_double(all[i]))) << "wrote between rows";
        return y;
    }
    struct Result {
        std::vector<T> o, dq, dk, dv;
        std::vector<float> lse;
        bool operator==(const Result &r) const
        {
            return same_bits(o, r.o) && same_bits(lse, r.lse) && same_bits(dq, r.dq) &&
                   same_bits(dk, r.dk) && same_bits(dv, r.dv);
        }
    };
    Result result()
    {
        return {columns(o, o_cols, ld_o), columns(dq, q_cols, ld_q), columns(dk, k_cols, ld_k),
                columns(dvalue, v_cols, ld_v), lse.host()};
    }
    Result twin()
    {
        const auto a = args();
        EXPECT_HN_OK(hn_attention_fwd_cpu(&a));
        EXPECT_HN_OK(hn_attention_bwd_cpu(&a));
        return result();
    }
    Result fast()
    {
        const auto a = args();
        GuardedArray<char> forward(hn_attention_fwd_fast_scratch(&a));
        EXPECT_HN_OK(hn_attention_fwd_fast(&a, forward.data()));
        forward.host();
        GuardedArray<char> backward(hn_attention_bwd_fast_scratch(&a));
        EXPECT_HN_OK(hn_attention_bwd_fast(&a, backward.data()));
        backward.host();
        return result();
    }
};

#ifdef HONE_CUDA

/* The same problem in device memory: same gaps, same poison. */
template <class T>
struct DeviceProblem {
    Problem<T> host;
    DeviceArray<T> q, k, v, o, dout, dq, dk, dvalue;
    DeviceArray<float> lse;
    DeviceArray<int32_t> q_offsets, kv_offsets;

    explicit DeviceProblem(const Shape &s, int64_t gap = 3)
        : host(s, gap), q(host.q.host()), k(host.k.host()), v(host.v.host()), o(host.o.host()),
          dout(host.dout.host()), dq(host.dq.host()), dk(host.dk.host()),
          dvalue(host.dvalue.host()), lse(host.lse.host()), q_offsets(s.q_offsets),
          kv_offsets(s.kv_offsets)
    {
    }
    hn_attention_args args()
    {
        auto a = host.args();
        a.q = q.data(), a.k = k.data(), a.v = v.data(), a.o = o.data(), a.lse = lse.data();
        a.dout = dout.data(), a.dq = dq.data(), a.dk = dk.data(), a.dv = dvalue.data();
        a.q_offsets = q_offsets.data();
        if (a.kv_offsets) a.kv_offsets = kv_offsets.data();
        return a;
    }
    typename Problem<T>::Result result()
    {
        const auto &h = host;
        return {h.columns(o, h.o_cols, h.ld_o), h.columns(dq, h.q_cols, h.ld_q),
                h.columns(dk, h.k_cols, h.ld_k), h.columns(dvalue, h.v_cols, h.ld_v), lse.host()};
    }
    void enqueue(DeviceArray<char> &scratch, hn_stream stream)
    {
        const auto a = args();
        EXPECT_HN_OK(hn_attention_fwd_cuda(&a, stream));
        EXPECT_HN_OK(hn_attention_bwd_cuda(&a, scratch.data(), stream));
    }
    typename Problem<T>::Result run()
    {
        const auto a = args();
        DeviceArray<char> scratch(hn_attention_bwd_cuda_scratch(&a));
        enqueue(scratch, nullptr);
        scratch.host();
        return result();
    }
    typename Problem<T>::Result run_from_graph()
    {
        const auto a = args();
        DeviceArray<char> scratch(hn_attention_bwd_cuda_scratch(&a));
        run_captured([&](cudaStream_t stream) { enqueue(scratch, stream); }, 2);
        scratch.host();
        return result();
    }
};
#endif
#endif
