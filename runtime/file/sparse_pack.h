/* sparse_pack.h - changes of chosen blocks of matrices as tensors of a safetensors file.
 *
 *   W'[B] = round(W[B] + delta[B])      fp32 sum, rounded once to W's type; all else stays
 *
 * A matrix with the name <name> becomes two tensors and one row in the list `tensors` of the
 * manifest (metadata delta.manifest; runtime/train/state.h):
 *
 *   <name>.sparse_ids     U8 [bytes]               ids of its blocks, ascending, in gap_code.h
 *   <name>.sparse_delta   F32 or BF16 [count, br bc]  block after block, row-major inside
 *   {"base_name": <name>, "encoding": "sparse-add" (1x1) or "block", "parts": [ids, delta],
 *    "shape": [out, in], "block": [br, bc], "count": n, "gap_k": k}
 *
 * A matrix may have a second row for blocks that are given by their values (no change to be added;
 * spec/delta.md: sparse-set), which counts first:
 *
 *   <name>.kept_ids        as above
 *   <name>.kept_values     F32 or BF16 [count, br bc]: what W has there before any change is added
 *   "encoding": "sparse-set" (1x1) or "block-set"
 *
 * A block id is R (in / bc) + C. Any br and bc that divide out and in are read and written.
 *
 * Writing   hn_pack_writer w = {0};
 *           for each matrix: hn_pack_add(&w, &matrix, HN_F32);
 *           hn_st_save(path, w.entry, w.n, metadata with hn_pack_tensors(&w) in its manifest);
 *           or, for a file of these alone, hn_pack_save(path, &w, manifest without `tensors`);
 *           hn_pack_writer_free(&w);
 * Reading   hn_pack_load(path, &pack, &manifest), or hn_pack_read for one row of a manifest.
 * Errors    HN_ERR_ARG: what is to be written breaks these rules; HN_ERR_NUMERIC: a value that is
 *           not finite, also after rounding; HN_ERR_FORMAT naming file and tensor: what is read
 *           does; HN_ERR_MEMORY; those of safetensors.h.
 * Source    spec/delta.md part 4.
 */
#ifndef HN_SPARSE_PACK_H
#define HN_SPARSE_PACK_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/arena.h"
#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/file/safetensors.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    char *name; /* of the weight in the base model */
    int64_t out, in, br, bc;
    int64_t n;    /* blocks */
    int32_t *id;  /* [n] ascending, each once */
    float *delta; /* [n, br bc] */
    bool set;     /* delta is W itself there, not a change */
} hn_pack_matrix;

/* Zero before the first use. */
typedef struct {
    hn_st_entry *entry; /* [n]: two a matrix */
    int64_t n, cap;
    json_t *tensors; /* rows of the manifest */
    void **own;      /* memory of entry i; NULL: the caller's */
    int64_t own_cap;
    hn_arena names;
} hn_pack_writer;

/* dtype  HN_F32 (m->delta is borrowed until the file is written) or HN_BF16 (rounded) */
HN_NODISCARD hn_status hn_pack_add(hn_pack_writer *w, const hn_pack_matrix *m, hn_dtype dtype);
void hn_pack_writer_free(hn_pack_writer *w); /* accepts an empty one */

/* manifest  an object without `tensors`; NULL: an empty one. `format_version` 1 is added where it
 *           is not there; keys are sorted */
HN_NODISCARD hn_status hn_pack_save(const char *path, const hn_pack_writer *w,
                                    const json_t *manifest);

/* Zero before the first use. */
typedef struct {
    hn_pack_matrix *matrix;
    int64_t n;
} hn_pack;

void hn_pack_matrix_free(hn_pack_matrix *m); /* one that was read; leaves it zeroed */
void hn_pack_free(hn_pack *p);               /* accepts an empty one */

/* Whether a row of `tensors` has one of these encodings. */
bool hn_pack_is_row(const json_t *row);
/* One such row. *out changes only on success. */
HN_NODISCARD hn_status hn_pack_read(const hn_st_file *f, const json_t *row, hn_pack_matrix *out);

/* A file of these alone: every row has one of these encodings, no name occurs twice in one way, and
 * every tensor belongs to a row. manifest: NULL, or out: json_decref it. */
HN_NODISCARD hn_status hn_pack_load(const char *path, hn_pack *out, json_t **manifest);

/* w [out, in] row-major += the change: fp32, one addition a value; `set`: w = the values. */
void hn_pack_apply(const hn_pack_matrix *m, float *w);

#ifdef __cplusplus
}
#endif
#endif
