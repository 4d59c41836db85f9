/* Pipelines that GGUF files and tokenizer classes name instead of spelling out. */
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/tokenizer_impl.h"

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define AFTER_DIGITS "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
static const char llama3[] = CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}" AFTER_DIGITS;
static const char qwen2[] = CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" AFTER_DIGITS;

/* Each regex isolates its matches; the next one cuts what it left. */
static const struct {
    const char *name;
    bool nfc, ignore_merges, bos;
    const char *regex[4];
} known[] = {
    {"gpt-2", false, false, false, {hn_tok_gpt2_regex}},
    {"phi-2", false, false, false, {hn_tok_gpt2_regex}},
    {"mpt", false, false, false, {hn_tok_gpt2_regex}},
    {"olmo", false, false, false, {hn_tok_gpt2_regex}},
    {"llama-bpe", false, true, true, {llama3}},
    {"llama3", false, true, true, {llama3}},
    {"llama-v3", false, true, true, {llama3}},
    {"qwen2", true, false, false, {qwen2}},
    {"deepseek-r1-qwen", true, false, false, {qwen2}},
    {"smollm", false, false, false, {"\\p{N}", hn_tok_gpt2_regex}},
    {"starcoder", false, false, false, {"\\p{N}", hn_tok_gpt2_regex}},
    {"default",
     false,
     false,
     false,
     {"[\\p{P}\\$\\+<=>\\^~\\|]+", hn_tok_gpt2_regex, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

hn_status hn_tok_known_pre(hn_tokenizer *t, const char *name, const char *where)
{
    const size_t n = sizeof known / sizeof *known;
    size_t i = 0;
    while (i < n && strcmp(known[i].name, name) != 0) i++;
    if (i == n)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: pre-tokenizer '%.60s' is not known (gpt-2, llama-bpe, qwen2, smollm, "
                       "default and a few aliases are)",
                       where, name);
    if (known[i].nfc) HN_TRY(hn_tok_add_norm(t, (hn_tok_norm){.kind = HN_NORM_NFC}));
    for (size_t k = 0; k < 4 && known[i].regex[k] != NULL; k++)
        HN_TRY(hn_tok_add_regex(t, known[i].regex[k], HN_KEEP_ISOLATED, where));
    t->ignore_merges = known[i].ignore_merges;
    if (t->add_bos < 0) t->add_bos = known[i].bos && t->bos >= 0;
    HN_TRY(hn_tok_add_split(t, (hn_tok_split){.kind = HN_SPLIT_BYTES}));
    return hn_tok_add_dec(t, (hn_tok_dec){.kind = HN_DEC_BYTE_LEVEL});
}

hn_status hn_tok_add_merge(hn_tokenizer *t, const char *left, size_t n_left, const char *right,
                           size_t n_right, int64_t rank, const char *where)
{
    char both[256], *joined = both;
    const int32_t a = hn_vocab_find(&t->vocab, left, n_left);
    const int32_t b = hn_vocab_find(&t->vocab, right, n_right);
    if (n_left + n_right > sizeof both && (joined = hn_malloc(n_left + n_right)) == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%s: merge %lld", where, (long long)rank);
    memcpy(joined, left, n_left);
    memcpy(joined + n_left, right, n_right);
    const int32_t ab = hn_vocab_find(&t->vocab, joined, n_left + n_right);
    if (joined != both) hn_free(joined);
    if (a < 0 || b < 0 || ab < 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: merge %lld ('%.*s' '%.*s'): %s is not in the vocabulary",
                       where, (long long)rank, n_left < 40 ? (int)n_left : 40, left,
                       n_right < 40 ? (int)n_right : 40, right,
                       a < 0   ? "the left token"
                       : b < 0 ? "the right token"
                               : "the merged token");
    hn_merges_add(&t->merges, a, b, (uint32_t)rank, ab);
    return HN_OK;
}
