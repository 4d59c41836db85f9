/* nifti_impl.h - private to nifti*.c: the header's bytes. */
#ifndef HN_NIFTI_IMPL_H
#define HN_NIFTI_IMPL_H
#include "runtime/data/nifti.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HN_NIFTI1_HEAD = 348,
    HN_NIFTI2_HEAD = 540,
    HN_NIFTI_HEAD_ROOM = HN_NIFTI2_HEAD + 4 /* and the four bytes that announce extensions */
};

typedef enum {
    HN_NIFTI_U8,
    HN_NIFTI_I8,
    HN_NIFTI_I16,
    HN_NIFTI_U16,
    HN_NIFTI_I32,
    HN_NIFTI_U32,
    HN_NIFTI_F32,
    HN_NIFTI_F64
} hn_nifti_type;

/* Where the data lie. */
typedef struct {
    hn_nifti_type type;
    int64_t offset;       /* in the file of the data */
    int64_t voxels;       /* of a volume */
    int64_t volume_bytes; /* of a volume */
    int64_t end;          /* offset + all volumes */
} hn_nifti_place;

/* head     the first n_bytes of the file, HN_NIFTI_HEAD_ROOM of them if it has so many */
HN_NODISCARD hn_status hn_nifti_parse(const uint8_t *head, size_t n_bytes, const char *name,
                                      int64_t max_voxels, hn_nifti_info *info,
                                      hn_nifti_place *place);

#ifdef __cplusplus
}
#endif
#endif
