/* Plans as JSON and back. The algorithm travels as the eight words of cublasLtMatmulAlgo_t, which
 * the library promises to understand again in the same version; the named numbers beside them are
 * for people. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/linear/cuda_gemm_plan.h"
#include "runtime/base/alloc.h"
#include "runtime/base/json.h"

namespace {

constexpr size_t kWords = sizeof(cublasLtMatmulAlgo_t) / sizeof(uint64_t);
constexpr size_t kDigits = 16; /* of a word */

struct Named {
    const char *name;
    cublasLtMatmulAlgoConfigAttributes_t what;
    size_t size;
};

constexpr Named kNamed[] = {
    {"algorithm", CUBLASLT_ALGO_CONFIG_ID, 4},
    {"tile", CUBLASLT_ALGO_CONFIG_TILE_ID, 4},
    {"stages", CUBLASLT_ALGO_CONFIG_STAGES_ID, 4},
    {"splitk", CUBLASLT_ALGO_CONFIG_SPLITK_NUM, 4},
    {"reduction", CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, 4},
    {"swizzle", CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, 4},
    {"custom", CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, 4},
    {"inner_shape", CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, 2},
    {"cluster_shape", CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, 2},
};

/* ---- writing ---- */

json_t *key_json(const hn_gemm_key *k)
{
    json_t *const o = json_object();
    int failed = o == nullptr;
#define X(name) failed |= json_object_set_new(o, #name, json_integer((json_int_t)k->name));
    HN_GEMM_KEY(X)
#undef X
    failed |= json_object_set_new(o, "dtype", json_string(hn_dtype_name((hn_dtype)k->dtype)));
    failed |= json_object_set_new(o, "c_dtype", json_string(hn_dtype_name((hn_dtype)k->c_dtype)));
    if (k->sms > 0) failed |= json_object_set_new(o, "sms", json_integer((json_int_t)k->sms));
    if (!failed) return o;
    json_decref(o);
    return nullptr;
}

int add_algorithm(const hn_gemm_cuda *g, const hn_gemm_plan *p, json_t *o)
{
    char words[kWords * kDigits + 1];
    for (size_t i = 0; i < kWords; i++)
        snprintf(words + i * kDigits, kDigits + 1, "%016" PRIx64, (uint64_t)p->algo.data[i]);
    int failed = json_object_set_new(o, "words", json_string(words));
    for (const Named &n : kNamed) {
        uint32_t value = 0; /* little-endian: a 16-bit value fills the lower half */
        size_t written = 0;
        if (g->lt.MatmulAlgoConfigGetAttribute(&p->algo, n.what, &value, n.size, &written) !=
            CUBLAS_STATUS_SUCCESS)
            continue; /* this algorithm has no such number */
        failed |= json_object_set_new(o, n.name, json_integer((json_int_t)value));
    }
    return failed;
}

json_t *plan_json(const hn_gemm_cuda *g, const hn_gemm_plan *p)
{
    json_t *const o = json_object();
    int failed = o == nullptr;
    failed |= json_object_set_new(o, "shape", key_json(&p->key));
    failed |= json_object_set_new(o, "library", json_integer((json_int_t)g->version));
    failed |= json_object_set_new(o, "gpu", json_string(g->gpu));
    failed |= json_object_set_new(o, "plain", json_boolean(p->plain));
    if (!p->plain) failed |= add_algorithm(g, p, o);
    if (!failed) return o;
    json_decref(o);
    return nullptr;
}

/* ---- reading ---- */

hn_status read_dtype(const json_t *o, const char *key, const char *where, int64_t *out)
{
    const char *text = nullptr;
    HN_TRY(hn_json_get_text(o, key, where, true, &text));
    for (const hn_dtype t : {HN_F32, HN_BF16})
        if (strcmp(text, hn_dtype_name(t)) == 0) {
            *out = t;
            return HN_OK;
        }
    return HN_FAIL(HN_ERR_FORMAT, "%s: '%s' is '%s', neither f32 nor bf16", where, key, text);
}

hn_status read_key(const json_t *o, const char *where, hn_gemm_key *k)
{
#define X(name) HN_TRY(hn_json_get_i64(o, #name, where, 0, INT64_MAX, true, &k->name));
    HN_GEMM_KEY(X)
#undef X
    HN_TRY(read_dtype(o, "dtype", where, &k->dtype));
    HN_TRY(read_dtype(o, "c_dtype", where, &k->c_dtype));
    HN_TRY(hn_json_get_i64(o, "sms", where, 0, INT32_MAX, false, &k->sms)); /* absent: all */
    for (const int64_t n : {k->m, k->n, k->k, k->batch})
        if (n < 1 || n > INT32_MAX)
            return HN_FAIL(HN_ERR_FORMAT, "%s: a dimension of a plan is %" PRId64, where, n);
    for (const int64_t n : {k->align_a, k->align_b, k->align_bias, k->align_c0, k->align_c})
        if (n < 2 || n > 16 || (n & (n - 1)) != 0)
            return HN_FAIL(HN_ERR_FORMAT, "%s: an alignment of a plan is %" PRId64, where, n);
    return HN_OK;
}

hn_status read_words(const json_t *o, const char *where, cublasLtMatmulAlgo_t *algo)
{
    const char *text = nullptr;
    HN_TRY(hn_json_get_text(o, "words", where, true, &text));
    if (strlen(text) != kWords * kDigits || strspn(text, "0123456789abcdef") != kWords * kDigits)
        return HN_FAIL(HN_ERR_FORMAT, "%s: 'words' is not %zu hexadecimal digits", where,
                       kWords * kDigits);
    for (size_t i = 0; i < kWords; i++) {
        char word[kDigits + 1] = {};
        memcpy(word, text + i * kDigits, kDigits);
        algo->data[i] = strtoull(word, nullptr, 16);
    }
    return HN_OK;
}

hn_status check_origin(const hn_gemm_cuda *g, const json_t *o, const char *where)
{
    int64_t version = 0;
    const char *gpu = nullptr;
    HN_TRY(hn_json_get_i64(o, "library", where, 0, INT64_MAX, true, &version));
    HN_TRY(hn_json_get_text(o, "gpu", where, true, &gpu));
    if (version == g->version && strcmp(gpu, g->gpu) == 0) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "%s: its products were planned by cuBLASLt %" PRId64 " on %s; here is cuBLASLt "
                   "%" PRId64 " on %s",
                   where, version, gpu, g->version, g->gpu);
}

/* Whether the library accepts the algorithm for the shape, within our workspace, and it is one that
 * a plan of ours may use. */
hn_status check_algorithm(const hn_gemm_cuda *g, const char *where, const hn_gemm_plan *p)
{
    bool fits = false;
    char product[HN_GEMM_KEY_TEXT];
    const size_t workspace =
        g->workspace != nullptr ? g->workspace_bytes : (size_t)HN_GEMM_WORKSPACE;
    const cublasStatus_t s = hn_gemm_try_algorithm(g, p, workspace, &fits);
    if (fits) {
        if (hn_gemm_is_ordered(g, &p->algo)) return HN_OK;
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: the stored algorithm of the product %s adds partial sums up in bf16 or "
                       "in an order left to chance",
                       where, hn_gemm_key_text(&p->key, product));
    }
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "%s: cuBLASLt refuses the stored algorithm of the product %s: %s", where,
                   hn_gemm_key_text(&p->key, product),
                   s == CUBLAS_STATUS_SUCCESS ? "workspace too small" : g->lt.GetStatusString(s));
}

hn_status read_plan(const hn_gemm_cuda *g, const json_t *o, const char *where, hn_gemm_plan *p)
{
    HN_TRY(check_origin(g, o, where));
    HN_TRY(read_key(json_object_get(o, "shape"), where, &p->key));
    HN_TRY(hn_json_get_bool(o, "plain", where, true, &p->plain));
    if (p->plain) return HN_OK;
    HN_TRY(read_words(o, where, &p->algo));
    HN_TRY(hn_gemm_describe(g, p));
    return check_algorithm(g, where, p);
}

} // namespace

hn_status hn_gemm_cuda_plans(const hn_gemm_cuda *g, struct json_t **out)
{
    json_t *const list = json_array();
    int failed = list == nullptr;
    for (int64_t i = 0; i < g->n_plans && !failed; i++)
        failed |= json_array_append_new(list, plan_json(g, &g->plans[i]));
    if (failed) {
        json_decref(list);
        return HN_FAIL(HN_ERR_MEMORY, "out of memory for the list of gemm plans");
    }
    *out = list;
    return HN_OK;
}

/* Reads a list into *fresh; hn_gemm_free_plan and hn_free free it. Nothing is left after errors. */
static hn_status read_plans(const hn_gemm_cuda *g, const json_t *plans, const char *where,
                            hn_gemm_plan **fresh, size_t *n)
{
    if (!json_is_array(plans))
        return HN_FAIL(HN_ERR_FORMAT, "%s: the list of gemm plans is not an array", where);
    *n = json_array_size(plans);
    *fresh = static_cast<hn_gemm_plan *>(hn_calloc(*n + 1, sizeof **fresh));
    if (*fresh == nullptr) return HN_FAIL(HN_ERR_MEMORY, "%s: %zu gemm plans", where, *n);
    hn_status st = HN_OK;
    for (size_t i = 0; i < *n && st == HN_OK; i++)
        st = read_plan(g, json_array_get(plans, i), where, &(*fresh)[i]);
    if (st == HN_OK) return st;
    for (size_t i = 0; i < *n; i++) hn_gemm_free_plan(g, &(*fresh)[i]);
    hn_free(*fresh);
    return st;
}

hn_status hn_gemm_cuda_restore(hn_gemm_cuda *g, const struct json_t *plans, const char *where)
{
    hn_gemm_plan *fresh;
    size_t n;
    HN_TRY(read_plans(g, plans, where, &fresh, &n));
    hn_status st = HN_OK;
    /* room for all first: after it nothing fails */
    while (st == HN_OK && g->cap_plans < g->n_plans + (int64_t)n)
        st = hn_grow(&g->plans, &g->cap_plans, g->cap_plans, sizeof *fresh);
    for (size_t i = 0; i < n; i++) {
        if (st == HN_OK) st = hn_gemm_keep_plan(g, &fresh[i]);
        if (st != HN_OK) hn_gemm_free_plan(g, &fresh[i]);
    }
    hn_free(fresh);
    return st;
}

hn_status hn_gemm_cuda_offer(hn_gemm_cuda *g, const struct json_t *plans, const char *where)
{
    hn_gemm_plan *fresh;
    size_t n;
    HN_TRY(read_plans(g, plans, where, &fresh, &n));
    for (size_t i = 0; i < n; i++) hn_gemm_free_plan(g, &fresh[i]); /* made anew where it is used */
    hn_free(g->offers);
    g->offers = fresh;
    g->n_offers = (int64_t)n;
    return HN_OK;
}

void hn_gemm_cuda_count(const hn_gemm_cuda *g, int64_t *plans, int64_t *offered)
{
    *plans = g->n_plans;
    *offered = 0;
    for (int64_t i = 0; i < g->n_plans; i++) *offered += g->plans[i].offered;
}
