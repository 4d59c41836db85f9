/* volumes.h - sets of volumes with their label volumes out of NIfTI files (nifti.h), prepared for a
 * network.
 *
 * data       one of
 *   folder     of NIfTI files. With `labels`, a second folder, the labels of <name> have the same
 *              name there (the ending may differ). Without, those of <name> are in <name>_seg in
 *              the same folder. Names that begin with a dot and files of other kinds are skipped.
 *   file.nii   (.nii.gz, .hdr) one volume; `labels` is the file of its labels.
 *   list       a text file with a line for each volume: image, labels, site; the last may be
 *              missing. Fields are parted by tabs, or by commas in a line without tabs; paths
 *              start at the list's folder; blank lines and those that begin with # are skipped.
 * channels   several files, one for each channel, make a volume: `channels` names them. In a folder
 *            they are <name>_<channel>, the labels are <name>_seg (in a folder of their own they
 *            are <name>), and files whose names end otherwise are not of the set. A list has a
 *            column of images for each channel, in that order, in front of the labels. Files of a
 *            volume have one shape and one place in space: no voxel lies further than a hundredth
 *            of a voxel's shortest side from where the first file has it. Each channel is prepared
 *            on its own.
 * order      of the names' bytes, or of the list.
 * axes       a volume is [d, h, w, channels]: the first, second and third axis of its file, and the
 *            channels, the last fastest.
 * intensity  what is done to the values of each channel of each volume, on its own:
 *   none       nothing
 *   minmax     (v - min) / (max - min); zeros where all are equal
 *   zscore     (v - mean) / deviation over the voxels that are not zero; zeros stay. Deviation of
 *              the whole (n, not n - 1), in fp64; without deviation only the mean is taken off.
 *   quantile   (v - q5) / (q95 - q5), q5 and q95 the values at place floor(0.05 n) and
 *              ceil(0.95 n) - 1 of all voxels in order; not clipped; zeros where q5 = q95
 * labels     whole numbers 0..255; `relabel` renames them (BraTS: 4 -> 3) before they are compared
 *            with n_classes. 0 is background.
 *
 * Errors     name the file. Those of nifti.h; HN_ERR_ARG: no volumes, a volume without labels or
 *            the other way round, without one of its channels; HN_ERR_SHAPE: labels or a channel of
 *            another size or in another place; HN_ERR_FORMAT: a value that is NaN or infinite, a
 *            label outside the classes, voxels that seg_metrics.h has no distances for, a limit
 */
#ifndef HN_VOLUMES_H
#define HN_VOLUMES_H
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/log.h"
#include "runtime/base/save.h"
#include "runtime/data/nifti.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HN_VOLUMES_MAX_BYTES (INT64_C(32) << 30) /* a voxel: 4 bytes a channel, 1 of its label */

enum { HN_VOLUME_CHANNELS = 8, HN_VOLUME_CHANNEL_NAME = 32 }; /* most of a volume; bytes with 0 */

typedef struct {
    int32_t n; /* 0: none is named, volumes have one */
    char name[HN_VOLUME_CHANNELS][HN_VOLUME_CHANNEL_NAME];
} hn_volume_channels;

/* "t1,t1ce,t2,flair"; "" has none. Names are letters, digits, '-', '_' and '.', and do not end in
 * the labels' "seg".
 * Errors   HN_ERR_ARG: other names, one twice, more than HN_VOLUME_CHANNELS */
HN_NODISCARD hn_status hn_volume_channels_parse(const char *text, hn_volume_channels *out);

typedef enum {
    HN_INTENSITY_NONE,
    HN_INTENSITY_MINMAX,
    HN_INTENSITY_ZSCORE,
    HN_INTENSITY_QUANTILE
} hn_intensity;

#define HN_INTENSITIES "none|minmax|zscore|quantile" /* in the order of hn_intensity */
/* Errors  HN_ERR_ARG: not one of HN_INTENSITIES */
HN_NODISCARD hn_status hn_intensity_parse(const char *name, hn_intensity *out);
/* value    in/out [n], finite */
void hn_intensity_apply(hn_intensity how, float *value, int64_t n);

typedef struct {
    uint8_t from, to;
} hn_relabel;

/* "4:3,2:1" as its pairs.
 * out      [room]; *n of them are written
 * Errors   HN_ERR_ARG: another form, a label renamed twice, no room */
HN_NODISCARD hn_status hn_relabel_parse(const char *text, hn_relabel *out, int room, int *n);

typedef struct {
    const char *data, *labels; /* see above; labels NULL: beside the volumes, or in the list */
    bool unlabelled;           /* there are no labels, and none are looked for */
    hn_volume_channels channels;
    int64_t volume; /* which one of 4-D images; labels are 3-D */
    hn_intensity intensity;
    const hn_relabel *relabel;
    int n_relabel;
    int32_t n_classes;  /* 0: as many as the largest label asks for */
    int64_t max_voxels; /* of a volume; 0: HN_NIFTI_MAX_VOXELS */
    int64_t max_bytes;  /* of all; 0: HN_VOLUMES_MAX_BYTES */
} hn_volume_options;

typedef struct {
    const char *name; /* of the file, without folder, channel and ending */
    const char *site; /* "" when the list names none */
    int64_t size[3];  /* d, h, w */
    int32_t channels;
    const float *value;   /* [d, h, w, channels] */
    const uint8_t *label; /* [d, h, w]; NULL: unlabelled */
    hn_nifti_info info;   /* sizes and place in space; of the first channel */
} hn_volume;

/* A set; hn_volumes_free frees all of it. */
typedef struct {
    int64_t count;
    hn_volume *volume;
    int32_t channels;  /* of each */
    int32_t n_classes; /* 0: unlabelled */
    bool labelled;
    int64_t n_bytes;            /* of values and labels */
    char digest[HN_SHA256_HEX]; /* of sizes, classes, values and labels: what a resume compares */
} hn_volumes;

/* out      changed only on success */
HN_NODISCARD hn_status hn_volumes_open(const hn_volume_options *o, hn_volumes *out);
/* Volumes at hand, copied; all labelled or none. Values are taken as prepared,
 * a voxel_mm of 0 as 1 mm, channels of 0 as 1.
 * n_classes 0: as many as the largest label asks for
 * Errors   HN_ERR_ARG: none, labels for some only; HN_ERR_SHAPE: sizes, channels;
 *          HN_ERR_FORMAT: values and labels as above */
HN_NODISCARD hn_status hn_volumes_make(const hn_volume *v, int64_t n, int32_t n_classes,
                                       hn_volumes *out);
void hn_volumes_free(hn_volumes *v); /* accepts an empty one */

static inline int64_t hn_volume_voxels(const hn_volume *v)
{
    return v->size[0] * v->size[1] * v->size[2];
}

/* count    out [n_classes] voxels of each class in a volume with labels */
void hn_volume_histogram(const hn_volume *v, int32_t n_classes, int64_t *count);

/* Says in a few lines what is in the set: volumes, sizes, voxels in mm, channels, share of each
 * class. */
void hn_volumes_report(const hn_volumes *v, const hn_log *log);

#ifdef __cplusplus
}
#endif
#endif
