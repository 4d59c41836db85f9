/* trajectory.h - one file of recorded fine-tuning trajectories.
 *
 * A trajectory is K + 1 knots of D numbers, theta_k - theta_0 (theta_0: the backbone's own values,
 * not the noisy start; knot 0 is where the trajectory began), kept as fp16 multiples of its unit
 * (its learning rate: an Adam step moves a number by about one unit). With it stand the episode
 * that it comes from, the support images and labels, and the support loss at both ends.
 *
 * File (little-endian), made at its final size with all its blocks taken, so that a full disk shows
 * when it is made and not after hours:
 *   head      4096 bytes: "hone flow 1\n", sizes, domains, digests, CRC-32 of all before it
 *   records   n of one size, a multiple of 64 bytes: CRC-32 of the rest, salted with the record's
 *             number and the head's CRC-32; facts; images and labels [support]; knots [knots][D]
 * A record counts when its CRC-32 fits and its content can be: one that was cut off, or never
 * written, does not, and whoever resumes writes it again. Records may be written in any order.
 *
 * Files are hostile: sizes are checked before use, a record's facts before it counts.
 */
#ifndef HN_TRAJECTORY_H
#define HN_TRAJECTORY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/mapfile.h"
#include "runtime/base/save.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_TRAJECTORY_DOMAINS = 2048, HN_TRAJECTORY_MARK = 16 };

/* What is the same for all records of a file. */
typedef struct {
    int64_t records;              /* how many the file has room for */
    int64_t knots;                /* K + 1, 2 to 1024 */
    int64_t numbers;              /* D, below 2^24 */
    int64_t support;              /* most support images of an episode, below 2^20 */
    char layout[HN_SHA256_HEX];   /* digest of which number is which bias: who adapts makes it */
    char backbone[HN_SHA256_HEX]; /* digest of the weights that the trajectories begin at */
    char domains[HN_TRAJECTORY_DOMAINS]; /* names with commas between; facts.domain counts them */
} hn_trajectory_head;

/* What is known of one record. All members lie without gaps: the struct goes into the file as it
 * is. */
typedef struct {
    int64_t episode; /* number of the episode in its domain */
    uint64_t seed;   /* of the noise on the start */
    int32_t domain;
    int32_t init;                /* which start of the episode; 0: without noise */
    float unit;                  /* the learning rate, above 0 */
    float loss_first, loss_last; /* on the support set */
    int32_t images;              /* support images, 1 to head.support */
} hn_trajectory_facts;

/* HN_ERR_ARG with the member and its limit. */
HN_NODISCARD hn_status hn_trajectory_check(const hn_trajectory_head *h);

typedef struct {
    uint64_t record_bytes, file_bytes;
} hn_trajectory_bytes;

/* What a file with this head takes: to be told before it is made. Errors as hn_trajectory_check;
 * HN_ERR_ARG where it is more than 2^62 bytes. */
HN_NODISCARD hn_status hn_trajectory_budget(const hn_trajectory_head *h, hn_trajectory_bytes *out);

/* ---- writing ---- */

typedef struct hn_trajectory_writer hn_trajectory_writer;

/* Makes the file, or goes on with one that is there and has the same head. One writer at a time: a
 * second one is refused.
 * Errors   HN_ERR_WRITE (no room), HN_ERR_IO (in use), HN_ERR_FORMAT (damaged), HN_ERR_ARG (another
 *          head: names what differs) */
HN_NODISCARD hn_status hn_trajectory_writer_open(const char *path, const hn_trajectory_head *h,
                                                 hn_trajectory_writer **out);

/* Writers that share a file, each with records of its own. One is the first: it makes the file, or
 * goes on with it, and opens it before the others do. */
typedef struct {
    bool first;
    bool hosts; /* they are on several: every record goes out by itself, as a file system over a
                 * network would write whole pages, with what it has of others' records in them */
    unsigned char mark[HN_TRAJECTORY_MARK]; /* random; the others find it in the file */
} hn_trajectory_share;

/* Errors   as above; HN_ERR_ARG: it is not the file of the first, whose mark is not there. While
 *          any of them has it, everybody else is refused. */
HN_NODISCARD hn_status hn_trajectory_writer_open_shared(const char *path,
                                                        const hn_trajectory_head *h,
                                                        const hn_trajectory_share *share,
                                                        hn_trajectory_writer **out);
/* By the first, once all have opened it: the mark is no part of the file. */
HN_NODISCARD hn_status hn_trajectory_writer_unmark(hn_trajectory_writer *w);
/* The first record from `from` on that is not there yet (reads those that are); head.records when
 * all are. */
HN_NODISCARD hn_status hn_trajectory_writer_next(hn_trajectory_writer *w, int64_t from,
                                                 int64_t *record);
/* Writes a record, also over one that is there.
 * image, label  [facts.images]
 * knot          [knots][D] theta_k - theta_0
 * Errors        HN_ERR_ARG (facts; a number that is not finite or, in units, beyond fp16: names
 *               the record, knot and number; nothing is written), HN_ERR_WRITE */
HN_NODISCARD hn_status hn_trajectory_put(hn_trajectory_writer *w, int64_t record,
                                         const hn_trajectory_facts *facts, const int32_t *image,
                                         const int32_t *label, const float *knot);
/* What was written is in the file, for readers that open it from now on, on other hosts, too. */
HN_NODISCARD hn_status hn_trajectory_writer_flush(hn_trajectory_writer *w);
/* Flushes and frees w in every case. */
HN_NODISCARD hn_status hn_trajectory_writer_close(hn_trajectory_writer *w);

/* ---- reading ---- */

typedef struct {
    hn_trajectory_head head;
    int64_t n;       /* records that count */
    int64_t *record; /* [n] their numbers, rising */
    int64_t damaged; /* records that are neither empty nor whole */
    size_t record_bytes;
    hn_mapfile map;
} hn_trajectories;

/* Reads every record once (CRC-32 and facts), in parallel. A file that is still written may be
 * read.
 * Errors   HN_ERR_IO, HN_ERR_FORMAT, HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_trajectories_open(const char *path, hn_trajectories *out);
void hn_trajectories_close(hn_trajectories *t); /* accepts an empty one */

/* A record in the file. */
typedef struct {
    hn_trajectory_facts facts;
    const int32_t *image, *label; /* [head.support]; -1, HN_LABEL_IGNORED behind facts.images */
    const hn_f16 *knot;           /* [knots][D], in units of facts.unit; finite */
} hn_trajectory;

/* Of the content: numbers and CRC-32s of the records that count, and with those of the head. */
HN_NODISCARD hn_status hn_trajectories_digest(const hn_trajectories *t, char hex[HN_SHA256_HEX]);

/* i  0 to n - 1: the i-th that counts */
void hn_trajectories_at(const hn_trajectories *t, int64_t i, hn_trajectory *out);

/* sigma [tokens] of the records pick [n] (numbers for hn_trajectories_at), D = tokens equal parts:
 * the root of the mean square of a part of theta_K - theta_0. HN_ERR_ARG where a part never moves,
 * and where D is no multiple of tokens. */
HN_NODISCARD hn_status hn_trajectories_sigma(const hn_trajectories *t, const int64_t *pick,
                                             int64_t n, int64_t tokens, float *sigma);

#ifdef __cplusplus
}
#endif
#endif
