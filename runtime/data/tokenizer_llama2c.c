/* llama2.c's tok*.bin: int32 bytes of the longest piece, then for each id a float32 score, an
 * int32 length and the bytes. It is a SentencePiece vocabulary with spaces instead of U+2581 and
 * without piece types: ids 0, 1, 2 are <unk>, <s> and </s> (exported with line feeds around
 * them), <0x00> to <0xFF> are bytes. */
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/tokenizer_impl.h"

static int32_t i32_at(const unsigned char *p)
{
    return (int32_t)((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
                     (uint32_t)p[3] << 24);
}

static bool is_byte_name(const char *s, size_t n)
{
    return n == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>' &&
           strchr("0123456789ABCDEF", s[3]) != NULL && strchr("0123456789ABCDEF", s[4]) != NULL;
}

static hn_status set_piece(hn_tokenizer *t, int64_t id, const char *s, size_t n, float score,
                           const char *where)
{
    static const char *const names[] = {"<unk>", "<s>", "</s>"};
    int type = is_byte_name(s, n) ? HN_PIECE_BYTE : HN_PIECE_NORMAL;
    if (id < 3) {
        while (n > 0 && s[0] == '\n') s++, n--;
        while (n > 0 && s[n - 1] == '\n') n--;
        if (n != strlen(names[id]) || memcmp(s, names[id], n) != 0)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: token %lld is '%.*s', llama2.c's files have %s there", where,
                           (long long)id, n < 40 ? (int)n : 40, s, names[id]);
        type = id == 0 ? HN_PIECE_UNKNOWN : HN_PIECE_CONTROL;
    }
    HN_TRY(hn_vocab_set(&t->vocab, id, s, n, type, type == HN_PIECE_NORMAL, where));
    t->vocab.piece[id].score = (double)score;
    return HN_OK;
}

static hn_status read_pieces(hn_tokenizer *t, const unsigned char *data, size_t n,
                             const char *where)
{
    int64_t id = 0;
    size_t at = 4;
    while (at < n) {
        if (n - at < 8)
            return HN_FAIL(HN_ERR_FORMAT, "%s: ends inside the head of token %lld", where,
                           (long long)id);
        float score;
        memcpy(&score, data + at, sizeof score);
        const int32_t len = i32_at(data + at + 4);
        at += 8;
        if (len <= 0 || (size_t)len > n - at)
            return HN_FAIL(HN_ERR_FORMAT, "%s: token %lld of %d bytes, %zu are left", where,
                           (long long)id, len, n - at);
        HN_TRY(set_piece(t, id++, (const char *)data + at, (size_t)len, score, where));
        at += (size_t)len;
    }
    if (id < 3) return HN_FAIL(HN_ERR_FORMAT, "%s: %lld tokens", where, (long long)id);
    return HN_OK;
}

hn_status hn_tok_parse_llama2c(const unsigned char *data, size_t n, const char *where,
                               hn_tokenizer **out)
{
    hn_status st = HN_OK;
    hn_tokenizer *t = NULL;
    if (n < 4) return HN_FAIL(HN_ERR_FORMAT, "%s: %zu bytes", where, n);
    HN_TRY(hn_tok_new(&t));
    HN_TRY_GOTO(st, read_pieces(t, data, n, where), done);
    hn_vocab_bytes(&t->vocab, true);
    t->byte_fallback = t->vocab.all_bytes;
    t->model = HN_MODEL_PIECE_BPE;
    t->bos = 1;
    t->eos = 2;
    t->add_bos = 1;
    t->sp.dummy_prefix = true;
    t->sp.space[0] = ' ';
    t->sp.n_space = 1;
    HN_TRY_GOTO(st, hn_tok_finish_sp(t, where), done);
    *out = t;
    t = NULL;

done:
    hn_tokenizer_free(t);
    return st;
}
