#include "runtime/data/token_cache.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/data/data_util.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the token file is written as it lies in memory, little-endian"
#endif

enum { MAGIC = 16, HEX = HN_SHA256_HEX - 1 };
static const char magic[MAGIC] = "hone tokens 1\n";

typedef struct {
    int64_t n_words, n_samples;
    char key[HEX];
    char digest[HEX]; /* of everything before it */
} trailer;

void hn_token_cache_free(hn_token_cache *c)
{
    if (c == NULL) return;
    hn_mapfile_close(&c->map);
    hn_free(c->own_word);
    hn_free(c->own_offset);
    *c = (hn_token_cache){0};
}

/* ---- loading ---- */

static int64_t padded(int64_t n_words) { return n_words + (n_words & 1); }

/* Size of a file with these counts; -1 when they cannot be right. */
static int64_t file_size(int64_t n_words, int64_t n_samples)
{
    const int64_t limit = INT64_MAX / 32;
    if (n_words < 0 || n_samples < 0 || n_words > limit || n_samples > limit) return -1;
    return MAGIC + 4 * padded(n_words) + 8 * (n_samples + 1) + (int64_t)sizeof(hn_token_stats) +
           (int64_t)sizeof(trailer);
}

static hn_status check_content(const char *path, const hn_token_cache *c, int64_t vocab)
{
    if (c->offset[0] != 0 || c->offset[c->n_samples] != c->n_words)
        return HN_FAIL(HN_ERR_FORMAT, "%s: sample offsets do not span the tokens", path);
    for (int64_t i = 0; i < c->n_samples; i++)
        if (c->offset[i + 1] <= c->offset[i])
            return HN_FAIL(HN_ERR_FORMAT, "%s: offset of sample %" PRId64 " does not rise", path,
                           i);
    for (int64_t i = 0; i < c->n_words; i++)
        if (hn_word_id(c->word[i]) >= vocab)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: token %" PRId64 " is %d, the vocabulary has %" PRId64, path, i,
                           (int)hn_word_id(c->word[i]), vocab);
    return HN_OK;
}

static hn_status check_file(const char *path, const char *key, const hn_mapfile *map, trailer *t)
{
    char digest[HN_SHA256_HEX];
    if (map->size < MAGIC + sizeof *t || memcmp(map->data, magic, MAGIC) != 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: not a token file of this version", path);
    memcpy(t, map->data + map->size - sizeof *t, sizeof *t);
    if (file_size(t->n_words, t->n_samples) != (int64_t)map->size)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: %zu bytes do not fit %" PRId64 " tokens, %" PRId64 " samples", path,
                       map->size, t->n_words, t->n_samples);
    if (memcmp(t->key, key, HEX) != 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: made from other data or settings", path);
    HN_TRY(hn_sha256(map->data, map->size - HEX, digest));
    if (memcmp(digest, t->digest, HEX) != 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: SHA-256 is not what the file says", path);
    return HN_OK;
}

hn_status hn_token_cache_load(const char *path, const char *key, int64_t vocab, hn_token_cache *out)
{
    hn_status st = HN_OK;
    hn_token_cache c = {0};
    trailer t;
    HN_TRY_GOTO(st, hn_mapfile_open(path, &c.map), done);
    HN_TRY_GOTO(st, check_file(path, key, &c.map, &t), done);
    const unsigned char *at = c.map.data + MAGIC; /* every part lies on a multiple of 8 */
    c.n_words = t.n_words;
    c.n_samples = t.n_samples;
    c.word = (const int32_t *)(const void *)at;
    c.offset = (const int64_t *)(const void *)(at + 4 * padded(t.n_words));
    memcpy(&c.stats, c.offset + c.n_samples + 1, sizeof c.stats);
    HN_TRY_GOTO(st, check_content(path, &c, vocab), done);
    *out = c;
    c = (hn_token_cache){0};

done:
    hn_token_cache_free(&c);
    return st;
}

/* ---- writing ---- */

struct hn_token_writer {
    char *path; /* NULL: memory */
    char key[HN_SHA256_HEX];
    hn_saver *saver;
    EVP_MD_CTX *digest;
    int32_t *word; /* memory only */
    int64_t word_cap;
    int64_t *offset; /* n_samples + 1 */
    int64_t offset_cap;
    int64_t n_words, n_samples;
};

void hn_token_writer_abort(hn_token_writer *w)
{
    if (w == NULL) return;
    hn_saver_abort(w->saver);
    EVP_MD_CTX_free(w->digest);
    hn_free(w->path);
    hn_free(w->word);
    hn_free(w->offset);
    hn_free(w);
}

/* To the file and into the digest. */
static hn_status put(hn_token_writer *w, const void *data, size_t n_bytes)
{
    if (n_bytes == 0) return HN_OK;
    if (EVP_DigestUpdate(w->digest, data, n_bytes) != 1)
        return HN_FAIL(HN_ERR_MEMORY, "SHA-256 of %s failed", w->path);
    return hn_saver_write(w->saver, data, n_bytes);
}

static hn_status open_file(hn_token_writer *w, const char *path)
{
    w->path = hn_strdup(path);
    w->digest = EVP_MD_CTX_new();
    if (w->path == NULL || w->digest == NULL ||
        EVP_DigestInit_ex(w->digest, EVP_sha256(), NULL) != 1)
        return HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", path);
    HN_TRY(hn_saver_open(path, &w->saver));
    return put(w, magic, MAGIC);
}

hn_status hn_token_writer_open(const char *path, const char *key, hn_token_writer **out)
{
    hn_status st = HN_OK;
    hn_token_writer *w = hn_calloc(1, sizeof *w);
    if (w == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes to collect tokens", sizeof *w);
    snprintf(w->key, sizeof w->key, "%s", key);
    HN_TRY_GOTO(st, hn_reserve(&w->offset, &w->offset_cap, 1, sizeof *w->offset), done);
    w->offset[0] = 0;
    if (path != NULL) HN_TRY_GOTO(st, open_file(w, path), done);
    *out = w;
    w = NULL;

done:
    hn_token_writer_abort(w);
    return st;
}

hn_status hn_token_writer_add(hn_token_writer *w, const int32_t *word, int64_t n)
{
    if (w->path != NULL) {
        HN_TRY(put(w, word, (size_t)n * sizeof *word));
    } else {
        HN_TRY(hn_reserve(&w->word, &w->word_cap, w->n_words + n, sizeof *word));
        if (n > 0) memcpy(w->word + w->n_words, word, (size_t)n * sizeof *word);
    }
    w->n_words += n;
    return HN_OK;
}

hn_status hn_token_writer_end_sample(hn_token_writer *w)
{
    if (w->n_words == w->offset[w->n_samples]) return HN_OK;
    HN_TRY(hn_reserve(&w->offset, &w->offset_cap, w->n_samples + 2, sizeof *w->offset));
    w->offset[++w->n_samples] = w->n_words;
    return HN_OK;
}

int64_t hn_token_writer_samples(const hn_token_writer *w) { return w->n_samples; }

static int by_length(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static hn_status measure(const hn_token_writer *w, hn_token_stats *s)
{
    const int64_t n = w->n_samples;
    s->samples = n;
    s->tokens = w->n_words;
    s->token_min = s->token_median = s->token_p95 = s->token_max = 0;
    if (n == 0) return HN_OK;
    int64_t *length = hn_malloc((size_t)n * sizeof *length);
    if (length == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " sample lengths", n);
    for (int64_t i = 0; i < n; i++) length[i] = w->offset[i + 1] - w->offset[i];
    qsort(length, (size_t)n, sizeof *length, by_length);
    s->token_min = length[0];
    s->token_median = length[(n - 1) / 2];
    s->token_p95 = length[(n - 1) - (n - 1) / 20];
    s->token_max = length[n - 1];
    hn_free(length);
    return HN_OK;
}

static hn_status finish_file(hn_token_writer *w, const hn_token_stats *stats)
{
    static const char zeros[4] = {0};
    unsigned char digest[32];
    char hex[HN_SHA256_HEX];
    trailer t = {.n_words = w->n_words, .n_samples = w->n_samples};
    memcpy(t.key, w->key, HEX);
    HN_TRY(put(w, zeros, (size_t)(padded(w->n_words) - w->n_words) * 4));
    HN_TRY(put(w, w->offset, (size_t)(w->n_samples + 1) * sizeof *w->offset));
    HN_TRY(put(w, stats, sizeof *stats));
    HN_TRY(put(w, &t, offsetof(trailer, digest)));
    if (EVP_DigestFinal_ex(w->digest, digest, NULL) != 1)
        return HN_FAIL(HN_ERR_MEMORY, "SHA-256 of %s failed", w->path);
    for (int i = 0; i < 32; i++) snprintf(hex + (ptrdiff_t)2 * i, 3, "%02x", (unsigned)digest[i]);
    HN_TRY(hn_saver_write(w->saver, hex, HEX));
    hn_saver *saver = w->saver;
    w->saver = NULL; /* commit frees it in every case */
    return hn_saver_commit(saver, NULL, NULL);
}

hn_status hn_token_writer_finish(hn_token_writer *w, hn_token_stats *stats, int64_t vocab,
                                 hn_token_cache *out)
{
    hn_status st = HN_OK;
    HN_TRY_GOTO(st, measure(w, stats), done);
    if (w->path != NULL) {
        HN_TRY_GOTO(st, finish_file(w, stats), done);
        st = hn_token_cache_load(w->path, w->key, vocab, out);
    } else {
        *out = (hn_token_cache){.word = w->word,
                                .offset = w->offset,
                                .n_words = w->n_words,
                                .n_samples = w->n_samples,
                                .stats = *stats,
                                .own_word = w->word,
                                .own_offset = w->offset};
        w->word = NULL;
        w->offset = NULL;
    }

done:
    hn_token_writer_abort(w);
    return st;
}
