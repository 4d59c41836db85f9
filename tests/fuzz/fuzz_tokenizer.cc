/* Any bytes as any tokenizer file: the first byte chooses the format, the rest is the file. What
 * loads must encode a text, decode it, and decode it token by token without a fault. */
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "runtime/data/tokenizer_impl.h"

namespace {

const char kText[] = "Hello  world, it's\n\n 1234 \xc3\xa9\xe6\x97\xa5\xf0\x9f\x98\x80 a\xcc\x81 "
                     "<s>x</s> \xff\xe2\x82 aaaaaaab";

hn_status parse(const uint8_t *data, size_t n, hn_tokenizer **t)
{
    const char *text = reinterpret_cast<const char *>(data + 1);
    size_t used;
    switch (data[0] % 5) {
    case 0: return hn_tok_parse_json(text, n - 1, "fuzz", t);
    case 1: return hn_tok_parse_sp(data + 1, n - 1, "fuzz", t);
    case 2: return hn_tok_parse_gguf(data + 1, n - 1, "fuzz", &used, t);
    case 3: return hn_tok_parse_llama2c(data + 1, n - 1, "fuzz", t);
    default: break;
    }
    /* vocab.json, a zero byte, merges.txt */
    const void *zero = memchr(text, 0, n - 1);
    const size_t n_vocab = zero ? (size_t)(static_cast<const char *>(zero) - text) : n - 1;
    const size_t rest = zero ? n_vocab + 1 : n_vocab;
    return hn_tok_parse_gpt2(text, n_vocab, text + rest, n - 1 - rest,
                             data[0] & 16 ? "qwen2" : "gpt-2", "fuzz", t);
}

void check(bool ok)
{
    if (!ok) abort();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    hn_tokenizer *t = nullptr;
    if (n == 0) return 0;
    const hn_status st = parse(data, n, &t);
    check((st == HN_OK) == (t != nullptr));
    if (t == nullptr) return 0;
    if (hn_tok_seal(t, "fuzz") == HN_OK) {
        hn_tokens ids = {};
        hn_text whole = {}, parts = {};
        hn_detok state = {};
        const unsigned flags = data[0] & 32 ? HN_TOK_ADD_SPECIAL | HN_TOK_PARSE_SPECIAL : 0;
        if (hn_tokenizer_encode(t, kText, sizeof kText - 1, flags, &ids) == HN_OK) {
            for (int64_t i = 0; i < ids.n; i++) check(hn_tokenizer_piece(t, ids.id[i]) != nullptr);
            if (hn_tokenizer_decode(t, ids.id, ids.n, false, &whole) == HN_OK)
                check(whole.n == 0 || hn_utf8_valid(whole.s, whole.n));
            for (int64_t i = 0; i < ids.n; i++)
                if (hn_tokenizer_decode_next(t, &state, ids.id[i], &parts) != HN_OK) break;
            (void)!hn_tokenizer_decode_end(t, &state, &parts);
            check(parts.n == 0 || hn_utf8_valid(parts.s, parts.n));
        }
        hn_tokens_free(&ids);
        hn_text_free(&whole);
        hn_text_free(&parts);
    }
    hn_tokenizer_free(t);
    return 0;
}
