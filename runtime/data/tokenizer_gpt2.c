/* vocab.json + merges.txt: byte-level BPE as GPT-2 published it (Qwen2's files look the same but
 * need another pre-tokenizer, which the caller names). */
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/data/tokenizer_impl.h"

typedef struct {
    const char *s;
    size_t n;
} line;

/* The line at *at, without its end; moves *at behind it. */
static line next_line(const char *text, size_t n, size_t *at)
{
    const char *s = text + *at, *end = memchr(s, '\n', n - *at);
    line l = {.s = s, .n = end != NULL ? (size_t)(end - s) : n - *at};
    *at += l.n + (end != NULL);
    if (l.n > 0 && s[l.n - 1] == '\r') l.n--;
    return l;
}

static bool is_merge(line l) { return l.n > 0 && !(l.n >= 8 && memcmp(l.s, "#version", 8) == 0); }

static hn_status read_merges(hn_tokenizer *t, const char *text, size_t n, const char *where)
{
    int64_t n_merges = 0, rank = 0;
    for (size_t at = 0; at < n;) n_merges += is_merge(next_line(text, n, &at));
    HN_TRY(hn_merges_reserve(&t->merges, n_merges));
    for (size_t at = 0; at < n;) {
        const line l = next_line(text, n, &at);
        if (!is_merge(l)) continue;
        const char *space = memchr(l.s, ' ', l.n);
        const size_t left = space != NULL ? (size_t)(space - l.s) : 0;
        if (left == 0 || left + 1 >= l.n || memchr(space + 1, ' ', l.n - left - 1) != NULL)
            return HN_FAIL(HN_ERR_FORMAT, "%s: merge %lld is not two tokens: '%.*s'", where,
                           (long long)rank, l.n < 60 ? (int)l.n : 60, l.s);
        HN_TRY(hn_tok_add_merge(t, l.s, left, space + 1, l.n - left - 1, rank++, where));
    }
    return HN_OK;
}

hn_status hn_tok_parse_gpt2(const char *vocab, size_t n_vocab, const char *merges, size_t n_merges,
                            const char *pre, const char *where, hn_tokenizer **out)
{
    static const char end_of_text[] = "<|endoftext|>";
    hn_status st = HN_OK;
    json_t *json = NULL;
    hn_tokenizer *t = NULL;
    HN_TRY(hn_json_parse(vocab, n_vocab, where, &json));
    HN_TRY_GOTO(st, hn_tok_new(&t), done);
    hn_vocab_limit(&t->vocab, n_vocab);
    HN_TRY_GOTO(st, hn_tok_json_vocab(t, json, where), done);
    HN_TRY_GOTO(st, read_merges(t, merges, n_merges, where), done);
    t->model = HN_MODEL_BPE;
    HN_TRY_GOTO(st, hn_tok_known_pre(t, pre, where), done);
    t->eos = hn_vocab_find(&t->vocab, end_of_text, strlen(end_of_text));
    if (t->eos >= 0) {
        HN_TRY_GOTO(st, hn_added_push(t, (hn_tok_added){.id = t->eos, .special = true}), done);
        /* GPT-2 uses its one special token for everything, Qwen2 has no BOS. */
        if (strcmp(pre, "gpt-2") == 0) t->bos = t->unk = t->unk_model = t->eos;
    }
    *out = t;
    t = NULL;

done:
    hn_tokenizer_free(t);
    json_decref(json);
    return st;
}
