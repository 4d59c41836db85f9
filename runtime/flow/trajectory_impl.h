/* trajectory_impl.h - the layout of a trajectory file. For the sources of this folder only. */
#ifndef HN_TRAJECTORY_IMPL_H
#define HN_TRAJECTORY_IMPL_H
#include <assert.h>
#include <stdbool.h>

#include "runtime/flow/trajectory.h"

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the trajectory file is written as it lies in memory, little-endian"
#endif

enum { HN_TRAJECTORY_HEAD_BYTES = 4096, HN_TRAJECTORY_ALIGN = 64 };

/* The first bytes of the file; zeros behind, but for a mark at the end of them while writers that
 * share the file open it. */
typedef struct {
    char magic[16];
    int64_t records, knots, numbers, support;
    char layout[64], backbone[64];
    char domains[HN_TRAJECTORY_DOMAINS];
    uint32_t crc; /* of all bytes before it */
} hn_trajectory_file_head;

enum { HN_TRAJECTORY_MARK_AT = (int)HN_TRAJECTORY_HEAD_BYTES - (int)HN_TRAJECTORY_MARK };

static_assert(sizeof(hn_trajectory_file_head) <= HN_TRAJECTORY_MARK_AT, "it fits");
static_assert(sizeof(hn_trajectory_facts) == 40, "no gaps: it goes into the file as it is");

/* The first bytes of a record, then image and label int32 [support], knots fp16 [knots][D], zeros
 * up to the size of a record. */
typedef struct {
    uint32_t crc;     /* of all bytes behind it, salted */
    uint32_t written; /* 1; 0 where nobody wrote */
    hn_trajectory_facts facts;
} hn_trajectory_record;

static_assert(sizeof(hn_trajectory_record) == 48, "no gaps");

/* Places in a record. */
typedef struct {
    size_t image, label, knot, n_bytes;
} hn_trajectory_places;

/* HN_ERR_ARG where the head asks for what cannot be. */
HN_NODISCARD hn_status hn_trajectory_places_of_(const hn_trajectory_head *h,
                                                hn_trajectory_places *out);

/* CRC-32 of a record of n bytes, which depends on its number and on the file it is in. */
uint32_t hn_trajectory_crc_(const unsigned char *record, size_t n_bytes, int64_t number,
                            uint32_t head_crc);

hn_trajectory_file_head hn_trajectory_pack_head_(const hn_trajectory_head *h);

/* Reads a head of HN_TRAJECTORY_HEAD_BYTES; path for the error text: HN_ERR_FORMAT. */
HN_NODISCARD hn_status hn_trajectory_unpack_head_(const char *path, const unsigned char *data,
                                                  hn_trajectory_head *out, uint32_t *crc);

/* What the facts of a record break; NULL: nothing. */
const char *hn_trajectory_fault_(const hn_trajectory_head *h, const hn_trajectory_facts *f);

/* What a record holds: pointers into it. */
void hn_trajectory_view_(const unsigned char *record, const hn_trajectory_places *p,
                         hn_trajectory *out);

/* Whether what a whole record says can be believed. */
bool hn_trajectory_is_sound_(const hn_trajectory_head *h, const hn_trajectory *t);

static inline uint64_t hn_trajectory_at_(const hn_trajectory_places *p, int64_t record)
{
    return (uint64_t)HN_TRAJECTORY_HEAD_BYTES + (uint64_t)record * p->n_bytes;
}

#ifdef __cplusplus
}
#endif
#endif
