/* model_dir.h - a Hugging Face model directory: configuration and weights.
 *
 * Weights    model.safetensors, or else model.safetensors.index.json and its shards. Every name of
 *            the index must be in its shard and in no other; a tensor of a shard that the index
 *            does not name is left out with a warning. The index's sizes are not used.
 * Refused    pickles (pytorch_model.bin), with a line that says how to convert them.
 * Lifetime   tensors are mapped and live as long as the directory object.
 * Errors     one line naming file and key or tensor: HN_ERR_IO, HN_ERR_FORMAT,
 *            HN_ERR_UNSUPPORTED, HN_ERR_MEMORY.
 * Source     conventions.md parts 1 and 5; the digest: spec/delta.md part 4.
 */
#ifndef HN_MODEL_DIR_H
#define HN_MODEL_DIR_H
#include <jansson.h>
#include <stdint.h>

#include "runtime/base/log.h"
#include "runtime/base/save.h"
#include "runtime/base/status.h"
#include "runtime/file/safetensors.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_model_dir hn_model_dir;

HN_NODISCARD hn_status hn_model_dir_open(const char *dir, const hn_log *log, hn_model_dir **out);
/* Weights without a folder: one safetensors file, whose configuration is elsewhere. */
HN_NODISCARD hn_status hn_model_dir_open_file(const char *file, hn_model_dir **out);
void hn_model_dir_close(hn_model_dir *m); /* accepts NULL */

const char *hn_model_dir_path(const hn_model_dir *m);
const char *hn_model_dir_config_path(const hn_model_dir *m);  /* for errors */
const json_t *hn_model_dir_config(const hn_model_dir *m);     /* config.json; NULL of a file */
const json_t *hn_model_dir_generation(const hn_model_dir *m); /* generation_config.json or NULL */

int64_t hn_model_dir_count(const hn_model_dir *m);
const hn_st_tensor *hn_model_dir_at(const hn_model_dir *m, int64_t i); /* in byte order of names */
const hn_st_tensor *hn_model_dir_find(const hn_model_dir *m, const char *name); /* or NULL */
/* The file that a tensor of m lies in, for errors. */
const char *hn_model_dir_file_of(const hn_model_dir *m, const hn_st_tensor *t);

/* Tensor-tree digest: SHA-256 over the lines "<name> <dtype> [<dim>,...] <sha256 of the bytes>\n"
 * in byte order of the names. The same however the tensors are spread over files. Reads every
 * byte. Errors: HN_ERR_FORMAT for a name with a control character. */
HN_NODISCARD hn_status hn_tensor_tree_digest(const hn_st_tensor *const *tensors, int64_t n,
                                             char hex[HN_SHA256_HEX]); /* tensors in any order */
HN_NODISCARD hn_status hn_model_dir_digest(const hn_model_dir *m, char hex[HN_SHA256_HEX]);

/* Writes a complete model directory with other weights, all or nothing: every file of src that
 * holds no weights is copied unchanged (subfolders too, hidden folders not), then come the weights:
 * one file, or, when src has shards, shards up to the size of its largest with an index.
 * out_dir   must not exist or be empty
 * entries   [n] in the order in which shards are to be filled
 * log       names what is not copied
 * Errors    as hn_st_save; HN_ERR_IO when out_dir has content or is src itself */
HN_NODISCARD hn_status hn_model_dir_save(const hn_model_dir *src, const char *out_dir,
                                         const hn_st_entry *entries, int64_t n, const hn_log *log);

/* The same with other configuration files: config and preprocessor, where they are not NULL, are
 * written as config.json and preprocessor_config.json in place of src's. */
HN_NODISCARD hn_status hn_model_dir_save_as(const hn_model_dir *src, const char *out_dir,
                                            const json_t *config, const json_t *preprocessor,
                                            const hn_st_entry *entries, int64_t n,
                                            const hn_log *log);

/* Bytes of the largest shard; 0 when the weights are one file. */
uint64_t hn_model_dir_shard_bytes(const hn_model_dir *m);

#ifdef __cplusplus
}
#endif
#endif
