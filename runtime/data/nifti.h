/* nifti.h - volumes out of NIfTI files, and masks back into them.
 *
 * Formats   NIfTI-1 and NIfTI-2 in either byte order: .nii, .nii.gz, and .hdr with .img (each also
 *           as .gz; either name opens the pair). What is compressed ends in .gz, nothing else does.
 * Values    uint8, int8, int16, uint16, int32, uint32, float32, float64, given out as fp32:
 *           scl_slope * stored + scl_inter, computed in fp64 and rounded once. A slope of 0 or NaN
 *           means stored values as they are. NaN and infinity in a file of floats stay.
 * Order     value[(x * ny + y) * nz + z]: the indices of the file's axes (and of nibabel's array)
 *           in that order, the last one fastest. A file has its first axis fastest: reading turns
 *           it around. No axis is swapped or flipped to an anatomical direction: `affine` says
 *           what the indices mean.
 * 3-D, 4-D  of a 4-D file one volume is read; further axes must have length 1.
 * Skipped   header extensions, intents, slice timing, descriptions, at most HN_NIFTI_MAX_TAIL bytes
 *           behind the data.
 * Refused   Analyze 7.5 (no magic: its orientation is anybody's guess), complex, RGB, 64-bit and
 *           128-bit types, fewer than 3 axes.
 *
 * Why not niftilib: its reader (nifti2_io.c, 3.0.1) takes a path only and tries other names beside
 * it, keeps its settings in a process-wide struct, writes to stderr in some 300 places, and takes
 * sizes from the header before it looks at the file. What has to be checked around it is the whole
 * of the header, which is most of this reader; zlib does the rest.
 *
 * Hostile files: every field that is used is checked, and the bytes that the header promises are
 * compared with the file's size (compressed: with the most that gzip can make of it, 1032:1),
 * before memory is taken for them. gzip's checksum is checked, whichever volume is read.
 *
 * Errors name the file. HN_ERR_IO; HN_ERR_FORMAT: no NIfTI, damaged, cut off, beyond a limit;
 * HN_ERR_UNSUPPORTED: see Refused; HN_ERR_ARG: a name of another kind, no such volume;
 * HN_ERR_MEMORY.
 */
#ifndef HN_NIFTI_H
#define HN_NIFTI_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HN_NIFTI_MAX_SIDE = 32767,      /* of an axis: what NIfTI-1 can say */
    HN_NIFTI_MAX_VOXELS = 1 << 30,  /* of one volume, where the caller has no other limit */
    HN_NIFTI_MAX_OFFSET = 64 << 20, /* of the data in their file: header and extensions */
    HN_NIFTI_MAX_TAIL = 1 << 20     /* bytes behind the data */
};

/* Where a volume lies, as the header has it: what a mask of the volume is written with. Lengths are
 * in the file's unit. */
typedef struct {
    int unit;                       /* xyzt_units & 7: 0 unknown, 1 m, 2 mm, 3 um */
    int qform_code, sform_code;     /* 0: there is none */
    double pixdim[4];               /* [0] is qfac, -1 or 1; then the sizes of a voxel */
    double quatern[3], q_offset[3]; /* b, c, d; x, y, z. Zeros without qform */
    double srow[3][4];              /* zeros without sform */
} hn_nifti_space;

typedef struct {
    int64_t nx, ny, nz;
    int64_t volumes;     /* 1: 3-D */
    double voxel_mm[3];  /* pixdim; an unknown unit counts as mm */
    double affine[3][4]; /* from (x, y, z, 1) to mm, axes to right, front, top: sform, else qform,
                          * else voxel_mm on the diagonal */
    hn_nifti_space space;
    const char *type; /* "int16", as stored */
    double slope, inter;
    bool scaled; /* else slope 1, inter 0 */
    bool big_endian, nifti2, pair, gzip;
    int64_t
        extension_bytes; /* between header and data, where the header says they are extensions */
} hn_nifti_info;

typedef struct {
    hn_nifti_info info;
    float *value; /* [nx, ny, nz] */
} hn_nifti;

/* Reads the header and compares it with the file's size. max_voxels 0: HN_NIFTI_MAX_VOXELS. */
HN_NODISCARD hn_status hn_nifti_probe(const char *path, int64_t max_voxels, hn_nifti_info *out);
/* volume   of a 4-D file, from 0
 * out      changed only on success; hn_nifti_free frees it */
HN_NODISCARD hn_status hn_nifti_read(const char *path, int64_t volume, int64_t max_voxels,
                                     hn_nifti *out);
/* The same for the bytes of one file (no pair); `name` ends in .nii or .nii.gz. */
HN_NODISCARD hn_status hn_nifti_read_memory(const char *name, const void *data, size_t n_bytes,
                                            int64_t volume, int64_t max_voxels, hn_nifti *out);
void hn_nifti_free(hn_nifti *v); /* accepts an empty one */

/* The stored numbers of an image of labels: whole, from 0 to 255, or HN_ERR_FORMAT naming the
 * voxel. label    out [nx, ny, nz] */
HN_NODISCARD hn_status hn_nifti_labels(const hn_nifti *v, const char *name, uint8_t *label);

/* Writes a mask as NIfTI-1, uint8, little-endian, with the place in space of the volume it is for;
 * the file is the old one or the new one, never half of it (base/save.h). The same mask gives the
 * same bytes.
 * path     ends in .nii or .nii.gz
 * of       sizes and `space` are read
 * mask     [nx, ny, nz]
 * Errors   HN_ERR_ARG: another ending; HN_ERR_SHAPE: sizes outside the limits; HN_ERR_IO,
 *          HN_ERR_WRITE */
HN_NODISCARD hn_status hn_nifti_save_mask(const char *path, const hn_nifti_info *of,
                                          const uint8_t *mask);

#ifdef __cplusplus
}
#endif
#endif
