/* sparse_export.h - changed blocks as results: hn_export_kind.write of packs and SHiRA adapters,
 * and what both of them and merged models read.
 *
 * A pack is a folder with one file, delta.safetensors: the one of the checkpoint, byte for byte
 * (sparse_state.h). Ids, rows and columns in it are those of the matrix [out, in] that a layer
 * multiplies by; of a convolution [out, kh kw in], of a layer that files have transposed [out, in]
 * all the same. Merged models and SHiRA adapters have the order of their files. */
#ifndef HN_SPARSE_EXPORT_H
#define HN_SPARSE_EXPORT_H
#include "runtime/file/sparse_pack.h"
#include "runtime/train/session.h"

#ifdef __cplusplus
extern "C" {
#endif

HN_NODISCARD hn_status hn_export_pack(hn_session *s, const char *checkpoint, const char *dir);
/* Errors  HN_ERR_UNSUPPORTED: what PEFT's SHiRA cannot hold (convolutions, transposed weights,
 *         low-rank pairs, a head that was trained whole) */
HN_NODISCARD hn_status hn_export_shira(hn_session *s, const char *checkpoint, const char *dir);

/* The blocks of a pack: `path` is a folder with a delta.safetensors, or such a file.
 * manifest  NULL, or out: json_decref it */
HN_NODISCARD hn_status hn_sparse_read_pack(const char *path, hn_pack *out, json_t **manifest);

/* Relative distance of the logits now from those before; HN_ERR_NUMERIC above the limit
 * (export.c). */
HN_NODISCARD hn_status hn_export_compare(hn_session *s, const float *before, const char *dir,
                                         double limit);

#ifdef __cplusplus
}
#endif
#endif
