/* hone_client.h - a client of federated training, for programs that bring their own network.
 *
 * This header stands alone: no other header of hone is needed beside it, and nothing in it changes
 * its meaning; structs grow at their end, `size` says how much of one the caller knows. The library
 * computes; how messages travel is the caller's business (a socket, a file, a queue).
 *
 *   hone_client *c;
 *   hone_client_load(&(hone_client_options){.size = sizeof(hone_client_options), .client = 3,
 *                                           .config = "model=mnist-cnn\ndata=/data/mnist\n"}, &c);
 *   for each message of the server:
 *       hone_client_set_payload(c, message, n_bytes);   the model of a round
 *       hone_client_train_round(c, NULL, NULL);         local epochs over the client's images
 *       hone_client_get_payload(c, &update, &n_bytes);  what the server is to be sent
 *   hone_client_free(c);
 *
 * Messages   bytes as runtime/fed/message.h of hone lays them down: header, checksum, little-endian
 *            values. They carry round and client number and the digest of the model's layout, so
 *            that a message of another model, round or client is refused by name; with
 *            payload=head and payload=lora also one of another base (files, or configuration and
 *            seed) or LoRA scale. A server is hone's (hn_fed_server), or anything that reads and
 *            writes this format. With payload=sparse the first message is that of the blocks' ids
 *            (runtime/fed/support.h), which the server sends once.
 * Bits       the same configuration, images, client number and messages give the same update.
 * Errors     0: done. HONE_BAD_INPUT: a configuration, message or argument that cannot be;
 *            HONE_FAILED: memory, device, file. hone_last_error() says what in one line, on the
 *            thread that called. After an error the client is as it was, but for
 *            hone_client_train_round: its model is then that of the round's message again.
 * Threads    one at a time for a client; clients of their own are independent. */
#ifndef HONE_CLIENT_H
#define HONE_CLIENT_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { HONE_OK = 0, HONE_FAILED = 1, HONE_BAD_INPUT = 2 };

typedef struct hone_client hone_client;

const char *hone_version(void);    /* "0.1.0" */
const char *hone_last_error(void); /* "" if this thread has not failed */

typedef struct {
    size_t size; /* sizeof(hone_client_options) */
    int64_t
        client; /* its number, 0 or above: part of its messages, and of the order of its images */
    /* One option a line, "name=value": those of hone-fedref under Model, Data, Local training,
     * Payload and Machine (hone-fedref train --help). model and data must be there; payload,
     * model, its classes and image-size must be those of the server's run. Read, not kept. */
    const char *config;
    /* NULL, or gets what the work has to say, line by line. */
    void (*log)(void *context, const char *line);
    void *context;
} hone_client_options;

/* Opens model and images. *out: hone_client_free it. */
int hone_client_load(const hone_client_options *o, hone_client **out);
void hone_client_free(hone_client *c); /* accepts NULL */

int64_t hone_client_images(const hone_client *c); /* of training: n_k of its messages */
int64_t hone_client_values(const hone_client *c); /* elements of the payload; 0: no ids yet */
int64_t hone_client_round(const hone_client *c);  /* of the message that was set last; -1: none */

/* The server's message: the model of a round. Rounds rise; a message of a round that is not above
 * the last one is refused. Or the ids of payload=sparse, once, before the first model. */
int hone_client_set_payload(hone_client *c, const void *message, size_t n_bytes);

typedef struct {
    size_t size;   /* sizeof(hone_training) */
    int64_t steps; /* 0: all of the local epochs; else at most so many optimizer steps */
} hone_training;

typedef struct {
    size_t size; /* sizeof(hone_trained): set by the caller */
    double loss; /* mean training loss of the last local epoch; NaN where it diverged */
    double seconds;
    int64_t steps; /* that were done */
} hone_trained;

/* Trains from the model of the round, once for each message.
 * how      NULL: as configured
 * result   NULL, or receives what came of it */
int hone_client_train_round(hone_client *c, const hone_training *how, hone_trained *result);

/* The update of the round that was trained. Of topk and bf16 with feedback, what this message does
 * not hold is kept and goes into the next one: in memory, a client that is loaded anew begins
 * without.
 * message   out: lives until the next call with this client
 * Errors    HONE_BAD_INPUT also where training has diverged: there is nothing that could be sent */
int hone_client_get_payload(hone_client *c, const void **message, size_t *n_bytes);

typedef struct {
    size_t size; /* sizeof(hone_scores): set by the caller */
    double accuracy, loss;
    int64_t images;
} hone_scores;

/* The model as it is (the round's, or the trained one) on the held-out images of its data.
 * Errors   HONE_BAD_INPUT where the data hold nothing out */
int hone_client_evaluate(hone_client *c, hone_scores *out);

#ifdef __cplusplus
}
#endif
#endif
