/* A call is three launches: one block makes lengths and offsets of what cuDNN counts in elements,
 * cuDNN's plan runs, and the rows that no sequence covers are cleared behind it. */
#include "kernels/attention/attention_cudnn.h"

#include <inttypes.h>

#include "runtime/base/alloc.h"
#include "runtime/base/check.h"

#ifndef HONE_CUDNN

static hn_status no_headers()
{
    return HN_FAIL(HN_ERR_UNSUPPORTED, "this build has no cuDNN: its headers were not there");
}

hn_status hn_attention_cudnn_open(hn_cudnn *, hn_attention_cudnn **) { return no_headers(); }
void hn_attention_cudnn_close(hn_attention_cudnn *) {}
const char *hn_attention_cudnn_version(const hn_attention_cudnn *) { return "none"; }

hn_status hn_attention_cudnn_plan(hn_attention_cudnn *, const hn_attention_args *, hn_cudnn_pass,
                                  size_t, size_t *)
{
    return no_headers();
}

hn_status hn_attention_cudnn_fwd(hn_attention_cudnn *, const hn_attention_args *, void *, hn_stream)
{
    return no_headers();
}

hn_status hn_attention_cudnn_bwd(hn_attention_cudnn *, const hn_attention_args *, hn_cudnn_pass,
                                 void *, hn_stream)
{
    return no_headers();
}

#else
#include <math.h>
#include <string.h>

#include "kernels/attention/cuda_attention_cudnn.h"

hn_status hn_attention_cudnn_open(hn_cudnn *lib, hn_attention_cudnn **out)
{
    HN_TRY(hn_check_pointer("attention through cuDNN", "the library", lib));
    hn_attention_cudnn *c = static_cast<hn_attention_cudnn *>(hn_calloc(1, sizeof *c));
    if (c == nullptr) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for attention plans", sizeof *c);
    c->lib = lib;
    *out = c;
    return HN_OK;
}

void hn_attention_cudnn_close(hn_attention_cudnn *c)
{
    if (c == nullptr) return;
    for (int64_t i = 0; i < c->n_plans; i++)
        (void)c->lib->BackendDestroyDescriptor(c->plans[i].plan);
    hn_free(c->plans);
    hn_free(c);
}

const char *hn_attention_cudnn_version(const hn_attention_cudnn *c) { return c->lib->version; }

/* ---- limits ---- */

static hn_status check_ld(const char *name, int64_t rows, int64_t ld, int64_t group)
{
    if (ld % 8 != 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "leading dimension %" PRId64 " of %s: multiples of 8",
                       ld, name);
    if (rows * ld >= ((int64_t)1 << 31) / group)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%" PRId64 " rows of %s, %" PRId64 " elements apart: offsets have 32 bits",
                       rows, name, ld);
    return HN_OK;
}

/* Packed, cuDNN takes one tensor's offsets for another's: with strides of their own it builds, runs
 * and gives wrong numbers, or reads where nothing is. */
static hn_status check_pair(const char *names, int64_t one, int64_t other)
{
    if (one == other) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "leading dimensions %" PRId64 " and %" PRId64
                   " of %s: equal ones, for packed sequences",
                   one, other, names);
}

static hn_status check_pairs(const hn_attention_args *a, hn_cudnn_pass pass)
{
    HN_TRY(check_pair("k and v", a->ld_k, a->ld_v));
    if (pass == HN_CUDNN_FWD) return HN_OK;
    if (pass == HN_CUDNN_BWD_FAST) HN_TRY(check_pair("q and dq", a->ld_q, a->ld_dq));
    HN_TRY(check_pair("k and dk", a->ld_k, a->ld_dk));
    return check_pair("v and dv", a->ld_v, a->ld_dv);
}

static bool is_even(const hn_attention_args *a)
{
    return a->even && a->kv_rows == a->q_rows && (a->longest == 0 || a->q_rows % a->longest == 0);
}

static hn_status check_lds(const hn_attention_args *a, hn_cudnn_pass pass)
{
    const int64_t group = a->heads / a->kv_heads;
    if (!is_even(a)) HN_TRY(check_pairs(a, pass));
    HN_TRY(check_ld("q", a->q_rows, a->ld_q, 1));
    HN_TRY(check_ld("k", a->kv_rows, a->ld_k, 1));
    HN_TRY(check_ld("v", a->kv_rows, a->ld_v, 1));
    HN_TRY(check_ld("o", a->q_rows, a->ld_o, 1));
    if (pass == HN_CUDNN_FWD) return HN_OK;
    HN_TRY(check_ld("dout", a->q_rows, a->ld_dout, 1));
    HN_TRY(check_ld("dq", a->q_rows, a->ld_dq, 1));
    HN_TRY(check_ld("dk", a->kv_rows, a->ld_dk, group));
    return check_ld("dv", a->kv_rows, a->ld_dv, group);
}

/* What cuDNN can do; `a` need not have its pointers yet. */
static hn_status check_limits(const hn_attention_args *a, hn_cudnn_pass pass)
{
    const int64_t d = a->head_dim;
    if (a->dtype != HN_BF16)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "computes in bf16 only, not in %s",
                       hn_dtype_name(a->dtype));
    if (a->heads < 1 || a->kv_heads < 1 || a->heads % a->kv_heads != 0 || a->sequences < 1 ||
        a->q_rows < 1 || a->kv_rows < 1)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%" PRId64 " heads, %" PRId64 " kv_heads, %" PRId64 " sequences, %" PRId64
                       " and %" PRId64 " rows",
                       a->heads, a->kv_heads, a->sequences, a->q_rows, a->kv_rows);
    if (d < 16 || d > 128 || d % 16 != 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "head_dim %" PRId64 ": multiples of 16 up to 128", d);
    if (a->value_dim != 0 && a->value_dim != d)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "value_dim %" PRId64 " beside head_dim %" PRId64,
                       a->value_dim, d);
    if (a->softcap != 0.0f)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "softcap %g: it has none", (double)a->softcap);
    if (a->kv_offsets != nullptr) return HN_FAIL(HN_ERR_UNSUPPORTED, "key offsets of their own");
    if (a->window > 0 && !a->causal)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "a window of %" PRId64 " without a causal mask",
                       a->window);
    return check_lds(a, pass);
}

static hn_status check_aligned(const char *name, const void *p)
{
    if ((uintptr_t)p % 16 == 0) return HN_OK;
    return HN_FAIL(HN_ERR_ALIGN, "attention through cuDNN: %s = %p, wanted on a 16-byte boundary",
                   name, p);
}

static hn_status check_call(const hn_attention_args *a, hn_cudnn_pass pass, const void *scratch)
{
    HN_TRY(hn_attention_check(a, pass != HN_CUDNN_FWD));
    HN_TRY(hn_check_pointer("attention through cuDNN", "scratch", scratch));
    HN_TRY(check_limits(a, pass));
    HN_TRY(check_aligned("q", a->q));
    HN_TRY(check_aligned("k", a->k));
    HN_TRY(check_aligned("v", a->v));
    HN_TRY(check_aligned("o", a->o));
    HN_TRY(check_aligned("lse", a->lse));
    if (pass == HN_CUDNN_FWD) return HN_OK;
    HN_TRY(check_aligned("dout", a->dout));
    HN_TRY(check_aligned("dq", a->dq));
    HN_TRY(check_aligned("dk", a->dk));
    return check_aligned("dv", a->dv);
}

/* ---- plans ---- */

static hn_attention_cudnn_key key_of(const hn_attention_args *a, hn_cudnn_pass pass)
{
    hn_attention_cudnn_key k = {};
    k.pass = pass;
    k.longest = a->longest > 0 && a->longest < a->q_rows ? a->longest : a->q_rows;
    k.even = is_even(a);
    k.sequences = k.even ? a->q_rows / k.longest : a->sequences;
    k.heads = a->heads, k.kv_heads = a->kv_heads, k.head_dim = a->head_dim;
    k.causal = a->causal;
    k.window = a->window > 0 && a->window < k.longest;
    k.ld_q = a->ld_q, k.ld_k = a->ld_k, k.ld_v = a->ld_v, k.ld_o = a->ld_o;
    if (pass == HN_CUDNN_FWD) return k;
    k.ld_dout = a->ld_dout, k.ld_dq = a->ld_dq, k.ld_dk = a->ld_dk, k.ld_dv = a->ld_dv;
    return k;
}

static hn_attention_cudnn_entry *find_plan(const hn_attention_cudnn *c,
                                           const hn_attention_cudnn_key *key)
{
    for (int64_t i = 0; i < c->n_plans; i++)
        if (memcmp(&c->plans[i].key, key, sizeof *key) == 0) return &c->plans[i];
    return nullptr;
}

/* Scratch, each part on a 256-byte boundary:
 *   lengths, offsets | sum of dout * o | fp32 dq | dk a query head | dv a query head | cuDNN's own
 * (dv in the gaps of dk: in_gaps) */
struct Layout {
    size_t dot, dq_sum, dk_head, dv_head, workspace, end;
};

/* Ints from one array of lengths or offsets to the next: each begins on such a boundary, too. */
static int64_t int_stride(int64_t sequences) { return (sequences + 1 + 63) / 64 * 64; }

static size_t after(size_t at, int64_t bytes) { return (at + (size_t)bytes + 255) / 256 * 256; }

/* Rows of dk and dv a query head lie group * ld apart, as cuDNN wants it. Where dk and dv are
 * columns of something wider that is far more than they fill: dv then lies in the gaps of dk. */
static bool in_gaps(const hn_attention_args *a)
{
    const int64_t cols = a->heads * a->head_dim, group = a->heads / a->kv_heads;
    return a->ld_dk == a->ld_dv && 2 * cols <= group * a->ld_dk && 2 * cols % 256 == 0;
}

static Layout layout_of(const hn_attention_args *a, const hn_attention_cudnn_entry *p)
{
    const bool bwd = p->key.pass != HN_CUDNN_FWD, fast = p->key.pass == HN_CUDNN_BWD_FAST;
    const int64_t group = a->heads / a->kv_heads, heads = bwd && group > 1 ? 2 * group : 0;
    Layout at;
    at.dot = after(0, 4 * (1 + p->n_offsets) * int_stride(a->sequences));
    at.dq_sum = after(at.dot, bwd ? 4 * a->q_rows * a->heads : 0);
    at.dk_head = after(at.dq_sum, fast ? 4 * a->q_rows * a->ld_dq : 0);
    at.dv_head = after(at.dk_head, heads * a->kv_rows * a->ld_dk);
    at.workspace = after(at.dv_head, heads * a->kv_rows * a->ld_dv);
    if (heads > 0 && in_gaps(a)) {
        at.workspace = at.dv_head;
        at.dv_head = at.dk_head + 2 * (size_t)(a->heads * a->head_dim);
    }
    at.end = after(at.workspace, p->workspace) + 256; /* to begin on such a boundary */
    return at;
}

/* What storing every weight of the deterministic backward takes, before anything is compiled. */
static double square_bytes(const hn_attention_cudnn_key *k)
{
    if (k->pass != HN_CUDNN_BWD) return 0;
    return 2.0 * (double)k->sequences * (double)k->heads * (double)k->longest * (double)k->longest;
}

static hn_status too_large(double bytes, size_t limit)
{
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "its scratch would be %.3g GiB, more than the %.3g GiB that "
                   "it may have",
                   bytes / 0x1p30, (double)limit / 0x1p30);
}

static hn_status make_plan(hn_attention_cudnn *c, const hn_attention_cudnn_key *key)
{
    static const char *const pass[] = {"forward", "deterministic backward", "fast backward"};
    hn_attention_cudnn_entry p = {};
    p.key = *key;
    HN_TRY(hn_grow(&c->plans, &c->cap_plans, c->n_plans, sizeof p));
    const hn_status st = hn_attention_cudnn_make(c, &p);
    if (st != HN_OK)
        return HN_FAIL(st,
                       "no %s for %" PRId64 " sequences of %" PRId64 ", %" PRId64 "/%" PRId64
                       " heads of %" PRId64 ": %s",
                       pass[key->pass], key->sequences, key->longest, key->heads, key->kv_heads,
                       key->head_dim, hn_last_text());
    c->plans[c->n_plans++] = p;
    return HN_OK;
}

static hn_status plan(hn_attention_cudnn *c, const hn_attention_args *a, hn_cudnn_pass pass,
                      size_t limit, size_t *scratch)
{
    HN_TRY(check_limits(a, pass));
    const hn_attention_cudnn_key key = key_of(a, pass);
    if (square_bytes(&key) > (double)limit) return too_large(square_bytes(&key), limit);
    if (find_plan(c, &key) == nullptr) HN_TRY(make_plan(c, &key));
    const size_t bytes = layout_of(a, find_plan(c, &key)).end;
    if (bytes > limit) return too_large((double)bytes, limit);
    *scratch = bytes;
    return HN_OK;
}

hn_status hn_attention_cudnn_plan(hn_attention_cudnn *c, const hn_attention_args *a,
                                  hn_cudnn_pass pass, size_t limit, size_t *scratch)
{
    const hn_status st = plan(c, a, pass, limit, scratch);
    return st == HN_OK ? HN_OK : HN_FAIL(st, "cuDNN %s: %s", c->lib->version, hn_last_text());
}

/* ---- kernels around cuDNN's ---- */

namespace {

constexpr int kThreads = 256;
constexpr int kClearBlocks = 132; /* a block per multiprocessor of an H200 */

struct OffsetJob {
    const int32_t *offsets;    /* rows, [sequences + 1] */
    int32_t *out;              /* lengths [sequences], then n arrays [sequences + 1] */
    int64_t sequences, stride; /* from array to array */
    int64_t ld[9];
    int n;
};

/* One block. */
__global__ void __launch_bounds__(kThreads) count_elements(const OffsetJob j)
{
    for (int64_t s = threadIdx.x; s <= j.sequences; s += kThreads) {
        const int32_t first = j.offsets[s];
        if (s < j.sequences) j.out[s] = j.offsets[s + 1] - first;
        for (int i = 0; i < j.n; i++) j.out[(i + 1) * j.stride + s] = (int32_t)(first * j.ld[i]);
    }
}

struct Cleared {
    uint32_t *p;
    int64_t words, ld_words, rows; /* of 4 bytes a row */
};

struct ClearJob {
    const int32_t *offsets;
    int64_t sequences;
    Cleared matrix[3]; /* blockIdx.y */
};

/* The rows ahead of the first offset and behind the last. */
__global__ void __launch_bounds__(kThreads) clear_uncovered(const ClearJob j)
{
    const Cleared m = j.matrix[blockIdx.y];
    const int64_t first = j.offsets[0], last = j.offsets[j.sequences];
    const int64_t n = first + (m.rows - last);
    for (int64_t i = blockIdx.x; i < n; i += gridDim.x) {
        uint32_t *const row = m.p + (i < first ? i : last + (i - first)) * m.ld_words;
        for (int64_t w = threadIdx.x; w < m.words; w += kThreads) row[w] = 0;
    }
}

Cleared bf16_matrix(void *p, int64_t rows, int64_t cols, int64_t ld)
{
    return {static_cast<uint32_t *>(p), cols / 2, ld / 2, rows};
}

} // namespace

static hn_status enqueue_offsets(const hn_attention_args *a, const hn_attention_cudnn_entry *p,
                                 void *out, hn_stream stream)
{
    OffsetJob j = {};
    j.offsets = a->q_offsets;
    j.out = static_cast<int32_t *>(out);
    j.sequences = a->sequences;
    j.stride = int_stride(a->sequences);
    j.n = p->n_offsets;
    memcpy(j.ld, p->offset_ld, sizeof j.ld);
    count_elements<<<1, kThreads, 0, stream>>>(j);
    return HN_CUDA_LAUNCHED("count_elements");
}

static hn_status enqueue_clear(const hn_attention_args *a, bool backward, hn_stream stream)
{
    const int64_t q = a->heads * a->head_dim, kv = a->kv_heads * a->head_dim;
    ClearJob j = {};
    j.offsets = a->q_offsets;
    j.sequences = a->sequences;
    if (backward) {
        j.matrix[0] = bf16_matrix(a->dq, a->q_rows, q, a->ld_dq);
        j.matrix[1] = bf16_matrix(a->dk, a->kv_rows, kv, a->ld_dk);
        j.matrix[2] = bf16_matrix(a->dv, a->kv_rows, kv, a->ld_dv);
    } else {
        j.matrix[0] = bf16_matrix(a->o, a->q_rows, q, a->ld_o);
        j.matrix[1] = {reinterpret_cast<uint32_t *>(a->lse), a->heads, a->heads, a->q_rows};
    }
    clear_uncovered<<<dim3(kClearBlocks, backward ? 3 : 2), kThreads, 0, stream>>>(j);
    return HN_CUDA_LAUNCHED("clear_uncovered");
}

/* ---- running ---- */

/* Host scalars that cuDNN reads while it enqueues. */
struct Scalars {
    float scale, one, minus_inf, window;
};

static void *pointer_of(const hn_attention_args *a, const Layout &at, char *scratch, Scalars *host,
                        int64_t id)
{
    int32_t *const ints = reinterpret_cast<int32_t *>(scratch);
    if (id >= HN_ID_FIRST_OFFSETS && id < HN_ID_END_OFFSETS)
        return ints + (1 + id - HN_ID_FIRST_OFFSETS) * int_stride(a->sequences);
    switch (id) {
    case HN_ID_Q: return const_cast<void *>(a->q);
    case HN_ID_K: return const_cast<void *>(a->k);
    case HN_ID_V: return const_cast<void *>(a->v);
    case HN_ID_O: return a->o;
    case HN_ID_LSE: return a->lse;
    case HN_ID_DOUT: return const_cast<void *>(a->dout);
    case HN_ID_DQ: return a->dq;
    case HN_ID_DK: return a->dk;
    case HN_ID_DV: return a->dv;
    case HN_ID_DOT: return scratch + at.dot;
    case HN_ID_DQ_SUM: return scratch + at.dq_sum;
    case HN_ID_DK_HEAD: return scratch + at.dk_head;
    case HN_ID_DV_HEAD: return scratch + at.dv_head;
    case HN_ID_SCALE: return &host->scale;
    case HN_ID_ONE: return &host->one;
    case HN_ID_MINUS_INF: return &host->minus_inf;
    case HN_ID_WINDOW: return &host->window;
    default: return ints; /* HN_ID_LENGTH_Q, HN_ID_LENGTH_K */
    }
}

static hn_status run(hn_attention_cudnn *c, const hn_attention_args *a, hn_cudnn_pass pass,
                     void *scratch, hn_stream stream)
{
    HN_TRY(hn_check_pointer("attention through cuDNN", "the library", c));
    HN_TRY(check_call(a, pass, scratch));
    const hn_attention_cudnn_key key = key_of(a, pass);
    const hn_attention_cudnn_entry *const p = find_plan(c, &key);
    if (p == nullptr)
        return HN_FAIL(HN_ERR_ARG, "attention through cuDNN: no plan for this shape was made");
    const Layout at = layout_of(a, p);
    char *const base = reinterpret_cast<char *>(((uintptr_t)scratch + 255) / 256 * 256);
    Scalars host = {a->scale, 1.0f, -INFINITY, (float)a->window};
    void *pointer[sizeof p->id / sizeof *p->id];
    for (int i = 0; i < p->n; i++) pointer[i] = pointer_of(a, at, base, &host, p->id[i]);
    HN_TRY(hn_cudnn_use_stream(c->lib, stream));
    if (!key.even) HN_TRY(enqueue_offsets(a, p, base, stream));
    HN_TRY(hn_cudnn_execute(c->lib, p->plan, p->n, p->id, pointer, base + at.workspace));
    return key.even ? HN_OK : enqueue_clear(a, pass != HN_CUDNN_FWD, stream);
}

hn_status hn_attention_cudnn_fwd(hn_attention_cudnn *c, const hn_attention_args *a, void *scratch,
                                 hn_stream stream)
{
    return run(c, a, HN_CUDNN_FWD, scratch, stream);
}

hn_status hn_attention_cudnn_bwd(hn_attention_cudnn *c, const hn_attention_args *a,
                                 hn_cudnn_pass pass, void *scratch, hn_stream stream)
{
    if (pass != HN_CUDNN_BWD && pass != HN_CUDNN_BWD_FAST)
        return HN_FAIL(HN_ERR_ARG, "attention through cuDNN: pass %d is no backward", (int)pass);
    return run(c, a, pass, scratch, stream);
}
#endif
