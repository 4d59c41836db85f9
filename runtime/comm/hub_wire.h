/* hub_wire.h - what the hub's ranks send each other, as bytes; for this folder only.
 *
 * All numbers are little-endian; lengths are fixed but for the text behind a frame. A connection:
 *   listener  greeting   magic, 16 random bytes
 *   rank      hello      who it is, 16 random bytes, HMAC-SHA256 over the greeting and all that
 *   listener  answer     a verdict in words, HMAC-SHA256 over the hello and all that
 * then, on a watch connection, frames in both directions; on a data connection, for each collective
 * a head and its bytes. The key of both HMACs is made of the job's identity and secret. */
#ifndef HN_HUB_WIRE_H
#define HN_HUB_WIRE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/comm/hub.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "values of a sum travel as they lie in memory, little-endian"
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HN_HUB_NONCE = 16,
    HN_HUB_KEY = 32,
    HN_HUB_VERSION_TEXT = 24,
    HN_HUB_ANSWER_TEXT = 112,
    HN_HUB_GREETING = 24,                                            /* bytes of a greeting */
    HN_HUB_HELLO = 72 + HN_HUB_VERSION_TEXT + HN_HUB_HOST_TEXT + 32, /* of a hello */
    HN_HUB_ANSWER = 16 + HN_HUB_ANSWER_TEXT + 32,                    /* of an answer */
    HN_HUB_FRAME = 32,                                               /* of a frame, without text */
    HN_HUB_HEAD = 32                                                 /* of a collective's head */
};

/* What proves that a rank belongs to the job. */
typedef struct {
    uint8_t hmac[HN_HUB_KEY]; /* of job and secret: the key of the proofs, sent nowhere */
    uint8_t job[HN_HUB_KEY];  /* digest of the job's identity */
} hn_hub_key;

/* job, secret   at most HN_HUB_SECRET_TEXT - 1 bytes; secret may be NULL
 * Errors        HN_ERR_MEMORY: OpenSSL failed */
HN_NODISCARD hn_status hn_hub_key_make(const char *job, const char *secret, hn_hub_key *out);
/* Tag of a rendezvous file: 64 hexadecimal digits, another for each job and secret. */
HN_NODISCARD hn_status hn_hub_key_tag(const hn_hub_key *key, char hex[65]);

HN_NODISCARD hn_status hn_hub_greeting_make(uint8_t out[HN_HUB_GREETING]);
bool hn_hub_greeting_ok(const uint8_t bytes[HN_HUB_GREETING]);

typedef enum { HN_HUB_DATA, HN_HUB_WATCH } hn_hub_channel;

typedef struct {
    hn_hub_channel channel;
    int rank, size;
    char version[HN_HUB_VERSION_TEXT]; /* of hone, zeros behind it */
    char host[HN_HUB_HOST_TEXT];       /* zeros behind it */
} hn_hub_hello;

/* Nonce of its own each time. */
HN_NODISCARD hn_status hn_hub_hello_make(const hn_hub_key *key,
                                         const uint8_t greeting[HN_HUB_GREETING],
                                         const hn_hub_hello *h, uint8_t out[HN_HUB_HELLO]);

typedef enum {
    HN_HUB_PEER_OK,
    HN_HUB_PEER_STRANGER, /* not our protocol */
    HN_HUB_PEER_JOB,      /* another job */
    HN_HUB_PEER_SECRET,   /* right job, wrong secret */
    HN_HUB_PEER_REFUSED   /* one of us, but it does not fit; text says why */
} hn_hub_peer_kind;

/* What the bytes are. out is filled with OK only, with final zeros and no control characters. */
hn_hub_peer_kind hn_hub_hello_read(const hn_hub_key *key, const uint8_t greeting[HN_HUB_GREETING],
                                   const uint8_t bytes[HN_HUB_HELLO], hn_hub_hello *out);

/* text  why not; "" with OK */
HN_NODISCARD hn_status hn_hub_answer_make(const hn_hub_key *key, const uint8_t hello[HN_HUB_HELLO],
                                          hn_hub_peer_kind kind, const char *text,
                                          uint8_t out[HN_HUB_ANSWER]);
/* OK and REFUSED only with the listener's proof; otherwise whose listener it is. */
hn_hub_peer_kind hn_hub_answer_read(const hn_hub_key *key, const uint8_t hello[HN_HUB_HELLO],
                                    const uint8_t bytes[HN_HUB_ANSWER],
                                    char text[HN_HUB_ANSWER_TEXT]);

/* ---- frames of a watch connection ---- */

typedef enum {
    HN_HUB_START = 1, /* rank 0: all are there; the text is [size][HN_HUB_HOST_TEXT] names */
    HN_HUB_BEAT,      /* where the sender is */
    HN_HUB_FAIL,      /* the sender cannot go on; why */
    HN_HUB_DEAD,      /* rank 0: the line about the rank that died */
    HN_HUB_BYE        /* the sender ends well */
} hn_hub_frame_kind;

/* Where a rank is, as it said itself. */
typedef struct {
    hn_hub_phase phase;
    bool waiting;   /* in a collective */
    int64_t step;   /* -1: none yet */
    int64_t age_ms; /* since the last sign of progress */
} hn_hub_place;

typedef struct {
    hn_hub_frame_kind kind;
    uint32_t n_text; /* bytes behind the frame */
    hn_hub_place at;
} hn_hub_frame;

void hn_hub_frame_write(const hn_hub_frame *f, uint8_t out[HN_HUB_FRAME]);
/* false: no frame. n_text is at most HN_HUB_TEXT - 1, but for START (at most HN_HUB_MAX_RANKS
 * names). */
bool hn_hub_frame_read(const uint8_t bytes[HN_HUB_FRAME], hn_hub_frame *out);

/* ---- heads of a collective ---- */

typedef enum {
    HN_HUB_SHARE = 1,
    HN_HUB_GATHER,
    HN_HUB_BARRIER,
    HN_HUB_SUM_F32,
    HN_HUB_SUM_F64,
    HN_HUB_PASS
} hn_hub_op;

typedef struct {
    hn_hub_op op;
    int root;
    uint64_t number; /* of the collective in this run; of a pass: of the last one before it */
    uint64_t n_bytes;
} hn_hub_head;

void hn_hub_head_write(const hn_hub_head *h, uint8_t out[HN_HUB_HEAD]);
bool hn_hub_head_read(const uint8_t bytes[HN_HUB_HEAD], hn_hub_head *out); /* false: no head */
const char *hn_hub_op_name(hn_hub_op op);

/* Control characters become '?', so that a text of others is one line. */
void hn_hub_one_line(char *text);

#ifdef __cplusplus
}
#endif
#endif
