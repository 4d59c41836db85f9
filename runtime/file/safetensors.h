/* safetensors.h - named tensors in one file, read from a mapping and written atomically.
 *
 * Layout     8 bytes header length N (little-endian), N bytes of JSON, then the data. The JSON
 *            maps each name to {"dtype", "shape", "data_offsets": [begin, end]}, offsets counted
 *            from the start of the data; "__metadata__" maps strings to strings.
 * Reading    the whole header is checked before anything is returned: every offset, size and
 *            count fits the file, the tensors lie end to end without hole or overlap, no name
 *            occurs twice. Values are not looked at. The data is mapped, not copied.
 * Writing    tensors ordered widest dtype first (the list below from its end), then by name in
 *            byte order; the header is padded with spaces to a multiple of 8. Same content, same
 *            bytes, as the Python library.
 * Limits     header 100,000,000 bytes; 8 dimensions; the product of the non-zero dimensions times
 *            the element's bits stays below 2^63.
 * Alignment  data of a tensor may lie at any address: read it with memcpy or hn_st_convert.
 * Errors     one line naming the file and the tensor or place: HN_ERR_FORMAT for a damaged file,
 *            HN_ERR_UNSUPPORTED for more than 8 dimensions, HN_ERR_IO, HN_ERR_MEMORY.
 * Source     specification and Rust core of the safetensors project; conventions.md part 4.
 */
#ifndef HN_SAFETENSORS_H
#define HN_SAFETENSORS_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/save.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Name in the file and bits of one element; the order is the writer's alignment order. */
/* clang-format off */
#define HN_ST_DTYPE_LIST(X) \
    X(BOOL,         8)      \
    X(F4,           4)      \
    X(F6_E2M3,      6)      \
    X(F6_E3M2,      6)      \
    X(U8,           8)      \
    X(I8,           8)      \
    X(F8_E5M2,      8)      \
    X(F8_E4M3,      8)      \
    X(F8_E8M0,      8)      \
    X(F8_E4M3FNUZ,  8)      \
    X(F8_E5M2FNUZ,  8)      \
    X(I16,         16)      \
    X(U16,         16)      \
    X(F16,         16)      \
    X(BF16,        16)      \
    X(I32,         32)      \
    X(U32,         32)      \
    X(F32,         32)      \
    X(C64,         64)      \
    X(F64,         64)      \
    X(I64,         64)      \
    X(U64,         64)

typedef enum {
#define X(name, bits) HN_ST_##name,
    HN_ST_DTYPE_LIST(X)
#undef X
    HN_ST_DTYPE_COUNT
} hn_st_dtype;
/* clang-format on */

enum { HN_ST_MAX_DIMS = 8 };

const char *hn_st_dtype_name(hn_st_dtype t); /* "BF16"; "?" when out of range */
int hn_st_dtype_bits(hn_st_dtype t);         /* bits of one element; 0 when out of range */

/* The file's type for one of ours; every hn_dtype has one. */
hn_st_dtype hn_st_dtype_of(hn_dtype t);

typedef struct hn_st_file hn_st_file;

typedef struct {
    const char *name; /* UTF-8, lives as long as the file */
    hn_st_dtype dtype;
    int ndim; /* 0: one element */
    int64_t dim[HN_ST_MAX_DIMS];
    const void *data; /* n_bytes, row-major, perhaps unaligned; lives as long as the file */
    size_t n_bytes;
} hn_st_tensor;

HN_NODISCARD hn_status hn_st_open(const char *path, hn_st_file **out);
/* The same from memory, which is borrowed until hn_st_close; `where` names it in errors. */
HN_NODISCARD hn_status hn_st_parse(const void *bytes, size_t n, const char *where,
                                   hn_st_file **out);
void hn_st_close(hn_st_file *f); /* accepts NULL */

int64_t hn_st_count(const hn_st_file *f);
const hn_st_tensor *hn_st_at(const hn_st_file *f, int64_t i); /* in the order of the offsets */
const hn_st_tensor *hn_st_find(const hn_st_file *f, const char *name); /* NULL when absent */
const char *hn_st_metadata(const hn_st_file *f, const char *key);      /* NULL when absent */
const char *hn_st_where(const hn_st_file *f);                          /* path, for errors */

int64_t hn_st_elements(const hn_st_tensor *t); /* product of the dimensions */

/* Copies a tensor into an array of another type.
 *   F64, F32, BF16, F16      -> f32, bf16, f16   rounded once, to nearest even
 *   BOOL and integers        -> i32, i64, u8     each value must fit
 *   F8_E4M3                  -> f8_e4m3          the same bytes
 * out      [hn_st_elements(t)] elements of `to`, aligned for it
 * Errors   HN_ERR_UNSUPPORTED for any other pair; HN_ERR_NUMERIC when a finite value would become
 *          infinite or an integer does not fit; both name the tensor. `out` is unspecified then. */
HN_NODISCARD hn_status hn_st_convert(const hn_st_tensor *t, hn_dtype to, void *out);

typedef struct {
    const char *name; /* UTF-8, unique in the file, not "__metadata__" */
    hn_st_dtype dtype;
    int ndim;
    int64_t dim[HN_ST_MAX_DIMS];
    const void *data;
    int64_t pitch; /* bytes from one row (of the last dimension) to the next; 0: dense */
    /* NULL, or is asked for the data when their turn has come; `data` is not read then. *copy:
     * memory that hn_free frees when they are written, or NULL. */
    hn_status (*fetch)(const void *source, const void **data, void **copy);
    const void *source;
} hn_st_entry;

/* Bytes that an entry takes in a file; the checks of hn_st_save for this entry (`path` is for the
 * text). */
HN_NODISCARD hn_status hn_st_entry_bytes(const hn_st_entry *e, const char *path, uint64_t *n_bytes);

/* Writes a file through hn_saver: `path` is the old file or the whole new one.
 * entries   [n] in any order
 * metadata  [n_metadata] pairs {key, value}, written in this order; other tools want
 *           {"format", "pt"}
 * n_bytes, hex   NULL or size and SHA-256 of the file
 * Errors    HN_ERR_ARG for a name that is repeated, reserved or not UTF-8 and for a bad shape or
 *           pitch, all before the file is created; HN_ERR_IO, HN_ERR_WRITE, HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_st_save(const char *path, const hn_st_entry *entries, int64_t n,
                                  const char *const (*metadata)[2], int64_t n_metadata,
                                  uint64_t *n_bytes, char hex[HN_SHA256_HEX]);

#ifdef __cplusplus
}
#endif
#endif
