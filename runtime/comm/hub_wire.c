#define _POSIX_C_SOURCE 200809L
#include "runtime/comm/hub_wire.h"

#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

static const uint8_t magic[8] = {'H', 'O', 'N', 'E', 'H', 'U', 'B', '1'};

enum { FRAME_MAGIC = 0x464e, HEAD_MAGIC = 0x444e, WAITING = 1 };

/* Where the fields of a hello and of an answer lie. */
enum {
    H_CHANNEL = 8,
    H_RANK = 12,
    H_SIZE = 16, /* and 4 zeros */
    H_NONCE = 24,
    H_JOB = H_NONCE + HN_HUB_NONCE,
    H_VERSION = H_JOB + HN_HUB_KEY,
    H_HOST = H_VERSION + HN_HUB_VERSION_TEXT,
    H_PROOF = H_HOST + HN_HUB_HOST_TEXT,
    A_KIND = 8, /* and 4 zeros */
    A_TEXT = 16,
    A_PROOF = A_TEXT + HN_HUB_ANSWER_TEXT
};
_Static_assert(H_PROOF + 32 == HN_HUB_HELLO && A_PROOF + 32 == HN_HUB_ANSWER, "layout");

static void put(uint8_t *at, uint64_t v, int n_bytes)
{
    for (int i = 0; i < n_bytes; i++) at[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get(const uint8_t *at, int n_bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < n_bytes; i++) v |= (uint64_t)at[i] << (8 * i);
    return v;
}

void hn_hub_one_line(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
}

static bool zeros(const uint8_t *at, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (at[i] != 0) return false;
    return true;
}

/* A text in a field of n bytes; the rest of the field is zero, one byte at least. */
static void put_text(uint8_t *at, const char *text, size_t n)
{
    const size_t length = strnlen(text, n - 1);
    memset(at, 0, n);
    memcpy(at, text, length);
}

static void get_text(const uint8_t *at, char *out, size_t n)
{
    memset(out, 0, n);
    memcpy(out, at, strnlen((const char *)at, n - 1));
    hn_hub_one_line(out);
}

/* ---- proofs ---- */

static hn_status sha256_parts(const void *a, size_t n_a, const void *b, size_t n_b,
                              uint8_t out[HN_HUB_KEY])
{
    EVP_MD_CTX *m = EVP_MD_CTX_new();
    const bool ok = m != NULL && EVP_DigestInit_ex(m, EVP_sha256(), NULL) == 1 &&
                    EVP_DigestUpdate(m, a, n_a) == 1 && EVP_DigestUpdate(m, b, n_b) == 1 &&
                    EVP_DigestFinal_ex(m, out, NULL) == 1;
    EVP_MD_CTX_free(m);
    return ok ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "SHA-256 failed");
}

hn_status hn_hub_key_make(const char *job, const char *secret, hn_hub_key *out)
{
    if (job == NULL || *job == '\0')
        return HN_FAIL(HN_ERR_ARG, "a job of several ranks has a name");
    if (secret == NULL) secret = "";
    if (strlen(job) >= HN_HUB_SECRET_TEXT || strlen(secret) >= HN_HUB_SECRET_TEXT)
        return HN_FAIL(HN_ERR_ARG, "%s of the job: at most %d bytes",
                       strlen(job) >= HN_HUB_SECRET_TEXT ? "identity" : "secret",
                       HN_HUB_SECRET_TEXT - 1);
    hn_hub_key k;
    HN_TRY(sha256_parts("hone hub job", 12, job, strlen(job), k.job));
    HN_TRY(sha256_parts(k.job, sizeof k.job, secret, strlen(secret), k.hmac));
    *out = k;
    return HN_OK;
}

/* HMAC-SHA256 over a label and two ranges. */
static hn_status prove(const hn_hub_key *key, const char *label, const uint8_t *a, size_t n_a,
                       const uint8_t *b, size_t n_b, uint8_t out[32])
{
    uint8_t message[16 + HN_HUB_HELLO + HN_HUB_ANSWER] = {0};
    unsigned n = 0;
    put_text(message, label, 16);
    memcpy(message + 16, a, n_a);
    if (n_b > 0) memcpy(message + 16 + n_a, b, n_b);
    if (HMAC(EVP_sha256(), key->hmac, HN_HUB_KEY, message, 16 + n_a + n_b, out, &n) == NULL ||
        n != 32)
        return HN_FAIL(HN_ERR_MEMORY, "HMAC-SHA256 failed");
    return HN_OK;
}

hn_status hn_hub_key_tag(const hn_hub_key *key, char hex[65])
{
    uint8_t tag[32];
    HN_TRY(prove(key, "file", magic, sizeof magic, NULL, 0, tag));
    for (int i = 0; i < 32; i++) {
        hex[2 * i] = "0123456789abcdef"[tag[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[tag[i] & 15];
    }
    hex[64] = '\0';
    return HN_OK;
}

hn_status hn_hub_greeting_make(uint8_t out[HN_HUB_GREETING])
{
    memcpy(out, magic, sizeof magic);
    if (RAND_bytes(out + sizeof magic, HN_HUB_NONCE) != 1)
        return HN_FAIL(HN_ERR_MEMORY, "no random numbers from OpenSSL");
    return HN_OK;
}

bool hn_hub_greeting_ok(const uint8_t bytes[HN_HUB_GREETING])
{
    return memcmp(bytes, magic, sizeof magic) == 0;
}

hn_status hn_hub_hello_make(const hn_hub_key *key, const uint8_t greeting[HN_HUB_GREETING],
                            const hn_hub_hello *h, uint8_t out[HN_HUB_HELLO])
{
    memset(out, 0, HN_HUB_HELLO);
    memcpy(out, magic, sizeof magic);
    put(out + H_CHANNEL, h->channel, 4);
    put(out + H_RANK, (uint64_t)h->rank, 4);
    put(out + H_SIZE, (uint64_t)h->size, 4);
    if (RAND_bytes(out + H_NONCE, HN_HUB_NONCE) != 1)
        return HN_FAIL(HN_ERR_MEMORY, "no random numbers from OpenSSL");
    memcpy(out + H_JOB, key->job, HN_HUB_KEY);
    put_text(out + H_VERSION, h->version, HN_HUB_VERSION_TEXT);
    put_text(out + H_HOST, h->host, HN_HUB_HOST_TEXT);
    return prove(key, "rank", greeting, HN_HUB_GREETING, out, H_PROOF, out + H_PROOF);
}

hn_hub_peer_kind hn_hub_hello_read(const hn_hub_key *key, const uint8_t greeting[HN_HUB_GREETING],
                                   const uint8_t bytes[HN_HUB_HELLO], hn_hub_hello *out)
{
    uint8_t proof[32];
    const uint64_t channel = get(bytes + H_CHANNEL, 4), rank = get(bytes + H_RANK, 4),
                   size = get(bytes + H_SIZE, 4);
    if (memcmp(bytes, magic, sizeof magic) != 0) return HN_HUB_PEER_STRANGER;
    if (memcmp(bytes + H_JOB, key->job, HN_HUB_KEY) != 0) return HN_HUB_PEER_JOB;
    if (prove(key, "rank", greeting, HN_HUB_GREETING, bytes, H_PROOF, proof) != HN_OK ||
        CRYPTO_memcmp(proof, bytes + H_PROOF, sizeof proof) != 0)
        return HN_HUB_PEER_SECRET;
    if (channel > HN_HUB_WATCH || rank >= HN_HUB_MAX_RANKS || size > HN_HUB_MAX_RANKS)
        return HN_HUB_PEER_STRANGER;
    hn_hub_hello h = {.channel = (hn_hub_channel)channel, .rank = (int)rank, .size = (int)size};
    get_text(bytes + H_VERSION, h.version, sizeof h.version);
    get_text(bytes + H_HOST, h.host, sizeof h.host);
    *out = h;
    return HN_HUB_PEER_OK;
}

hn_status hn_hub_answer_make(const hn_hub_key *key, const uint8_t hello[HN_HUB_HELLO],
                             hn_hub_peer_kind kind, const char *text, uint8_t out[HN_HUB_ANSWER])
{
    memset(out, 0, HN_HUB_ANSWER);
    memcpy(out, magic, sizeof magic);
    put(out + A_KIND, kind, 4);
    put_text(out + A_TEXT, text, HN_HUB_ANSWER_TEXT);
    return prove(key, "listener", hello, HN_HUB_HELLO, out, A_PROOF, out + A_PROOF);
}

hn_hub_peer_kind hn_hub_answer_read(const hn_hub_key *key, const uint8_t hello[HN_HUB_HELLO],
                                    const uint8_t bytes[HN_HUB_ANSWER],
                                    char text[HN_HUB_ANSWER_TEXT])
{
    uint8_t proof[32];
    const uint64_t kind = get(bytes + A_KIND, 4);
    text[0] = '\0';
    if (memcmp(bytes, magic, sizeof magic) != 0) return HN_HUB_PEER_STRANGER;
    if (prove(key, "listener", hello, HN_HUB_HELLO, bytes, A_PROOF, proof) != HN_OK ||
        CRYPTO_memcmp(proof, bytes + A_PROOF, sizeof proof) != 0)
        return kind == HN_HUB_PEER_JOB ? HN_HUB_PEER_JOB : HN_HUB_PEER_SECRET;
    get_text(bytes + A_TEXT, text, HN_HUB_ANSWER_TEXT);
    return kind == HN_HUB_PEER_OK ? HN_HUB_PEER_OK : HN_HUB_PEER_REFUSED;
}

/* ---- frames and heads ---- */

void hn_hub_frame_write(const hn_hub_frame *f, uint8_t out[HN_HUB_FRAME])
{
    memset(out, 0, HN_HUB_FRAME);
    put(out, FRAME_MAGIC, 2);
    put(out + 2, f->kind, 2);
    put(out + 4, f->n_text, 4);
    put(out + 8, f->at.phase, 2);
    put(out + 10, f->at.waiting ? WAITING : 0, 2);
    put(out + 16, (uint64_t)f->at.step, 8);
    put(out + 24, (uint64_t)f->at.age_ms, 8);
}

bool hn_hub_frame_read(const uint8_t bytes[HN_HUB_FRAME], hn_hub_frame *out)
{
    const uint64_t kind = get(bytes + 2, 2), n_text = get(bytes + 4, 4), phase = get(bytes + 8, 2),
                   flags = get(bytes + 10, 2);
    const int64_t step = (int64_t)get(bytes + 16, 8), age = (int64_t)get(bytes + 24, 8);
    if (get(bytes, 2) != FRAME_MAGIC || kind < HN_HUB_START || kind > HN_HUB_BYE ||
        phase >= HN_HUB_PHASES || flags > WAITING || !zeros(bytes + 12, 4) || step < -1 || age < 0)
        return false;
    if (n_text > (kind == HN_HUB_START ? HN_HUB_MAX_RANKS * HN_HUB_HOST_TEXT : HN_HUB_TEXT - 1))
        return false;
    *out = (hn_hub_frame){.kind = (hn_hub_frame_kind)kind,
                          .n_text = (uint32_t)n_text,
                          .at = {.phase = (hn_hub_phase)phase,
                                 .waiting = flags == WAITING,
                                 .step = step,
                                 .age_ms = age}};
    return true;
}

void hn_hub_head_write(const hn_hub_head *h, uint8_t out[HN_HUB_HEAD])
{
    memset(out, 0, HN_HUB_HEAD);
    put(out, HEAD_MAGIC, 2);
    put(out + 2, h->op, 2);
    put(out + 4, (uint64_t)h->root, 4);
    put(out + 8, h->number, 8);
    put(out + 16, h->n_bytes, 8);
}

bool hn_hub_head_read(const uint8_t bytes[HN_HUB_HEAD], hn_hub_head *out)
{
    const uint64_t op = get(bytes + 2, 2), root = get(bytes + 4, 4);
    if (get(bytes, 2) != HEAD_MAGIC || op < HN_HUB_SHARE || op > HN_HUB_PASS ||
        root >= HN_HUB_MAX_RANKS || !zeros(bytes + 24, 8))
        return false;
    *out = (hn_hub_head){.op = (hn_hub_op)op,
                         .root = (int)root,
                         .number = get(bytes + 8, 8),
                         .n_bytes = get(bytes + 16, 8)};
    return true;
}

const char *hn_hub_op_name(hn_hub_op op)
{
    static const char *const names[] = {"",        "share",   "gather", "barrier",
                                        "sum_f32", "sum_f64", "pass"};
    return op >= HN_HUB_SHARE && op <= HN_HUB_PASS ? names[op] : "?";
}
