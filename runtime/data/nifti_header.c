/* The header of NIfTI-1 (348 bytes) and NIfTI-2 (540 bytes): fields are fetched by their offsets in
 * the file's byte order, then checked one after the other. The format's definitions: nifti1.h and
 * nifti2.h of the NIfTI data format working group. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/data/nifti_impl.h"

/* The fields that are read, before anything is believed. */
typedef struct {
    const char *name;
    int64_t dim[8];
    int type_code, bits, unit, qform_code, sform_code;
    double pixdim[8], offset, slope, inter;
    double quatern[3], q_offset[3], srow[3][4];
    uint8_t extender;
} fields;

/* ---- bytes ---- */

typedef struct {
    const uint8_t *p;
    bool big;
} bytes;

static uint64_t get_u(bytes b, int at, int n)
{
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v |= (uint64_t)b.p[at + i] << 8 * (b.big ? n - 1 - i : i);
    return v;
}

static int get_i16(bytes b, int at) { return (int16_t)get_u(b, at, 2); }
static int get_i32(bytes b, int at) { return (int32_t)get_u(b, at, 4); }
static int64_t get_i64(bytes b, int at) { return (int64_t)get_u(b, at, 8); }

static double get_f32(bytes b, int at)
{
    const uint32_t u = (uint32_t)get_u(b, at, 4);
    float v;
    memcpy(&v, &u, sizeof v);
    return (double)v;
}

static double get_f64(bytes b, int at)
{
    const uint64_t u = get_u(b, at, 8);
    double v;
    memcpy(&v, &u, sizeof v);
    return v;
}

static void fetch1(bytes b, fields *f)
{
    for (int i = 0; i < 8; i++) {
        f->dim[i] = get_i16(b, 40 + 2 * i);
        f->pixdim[i] = get_f32(b, 76 + 4 * i);
    }
    f->type_code = get_i16(b, 70);
    f->bits = get_i16(b, 72);
    f->offset = get_f32(b, 108);
    f->slope = get_f32(b, 112);
    f->inter = get_f32(b, 116);
    f->unit = b.p[123] & 7;
    f->qform_code = get_i16(b, 252);
    f->sform_code = get_i16(b, 254);
    for (int i = 0; i < 3; i++) {
        f->quatern[i] = get_f32(b, 256 + 4 * i);
        f->q_offset[i] = get_f32(b, 268 + 4 * i);
        for (int k = 0; k < 4; k++) f->srow[i][k] = get_f32(b, 280 + 16 * i + 4 * k);
    }
}

static void fetch2(bytes b, fields *f)
{
    for (int i = 0; i < 8; i++) {
        f->dim[i] = get_i64(b, 16 + 8 * i);
        f->pixdim[i] = get_f64(b, 104 + 8 * i);
    }
    f->type_code = get_i16(b, 12);
    f->bits = get_i16(b, 14);
    const int64_t offset = get_i64(b, 168);
    f->offset = offset >= 0 && offset <= HN_NIFTI_MAX_OFFSET ? (double)offset : -1;
    f->slope = get_f64(b, 176);
    f->inter = get_f64(b, 184);
    f->unit = get_i32(b, 500) & 7;
    f->qform_code = get_i32(b, 344);
    f->sform_code = get_i32(b, 348);
    for (int i = 0; i < 3; i++) {
        f->quatern[i] = get_f64(b, 352 + 8 * i);
        f->q_offset[i] = get_f64(b, 376 + 8 * i);
        for (int k = 0; k < 4; k++) f->srow[i][k] = get_f64(b, 400 + 32 * i + 8 * k);
    }
}

/* Version, byte order and magic. */
static hn_status recognise(const uint8_t *head, size_t n_bytes, const char *name,
                           hn_nifti_info *info)
{
    if (n_bytes >= 2 && head[0] == 0x1f && head[1] == 0x8b)
        return HN_FAIL(HN_ERR_FORMAT, "%s: gzip data in a file whose name does not end in .gz",
                       name);
    if (n_bytes < 4)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %zu bytes are no NIfTI header", name, n_bytes);
    const uint64_t little = get_u((bytes){head, false}, 0, 4);
    const uint64_t big = get_u((bytes){head, true}, 0, 4);
    info->big_endian = big == HN_NIFTI1_HEAD || big == HN_NIFTI2_HEAD;
    const uint64_t size = info->big_endian ? big : little;
    if (size != HN_NIFTI1_HEAD && size != HN_NIFTI2_HEAD)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: no NIfTI header: it begins with size %" PRIu64 ", not 348 or 540", name,
                       size);
    if (n_bytes < size)
        return HN_FAIL(HN_ERR_FORMAT, "%s: cut off in the header: %zu of %" PRIu64 " bytes", name,
                       n_bytes, size);
    info->nifti2 = size == HN_NIFTI2_HEAD;
    const uint8_t *magic = head + (info->nifti2 ? 4 : 344);
    static const char *const known[] = {"n+1", "ni1", "n+2\0\r\n\032\n", "ni2\0\r\n\032\n"};
    const size_t length = info->nifti2 ? 8 : 4;
    for (int pair = 0; pair < 2; pair++)
        if (memcmp(magic, known[2 * info->nifti2 + pair], length) == 0) {
            info->pair = pair == 1;
            return HN_OK;
        }
    if (!info->nifti2 && memcmp(magic, "\0\0\0", 4) == 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: Analyze 7.5, not NIfTI: its orientation is not defined", name);
    return HN_FAIL(HN_ERR_FORMAT, "%s: the header has a wrong magic", name);
}

/* ---- checks ---- */

static hn_status check_sizes(const fields *f, int64_t max_voxels, hn_nifti_info *info,
                             hn_nifti_place *place)
{
    const int64_t most = max_voxels > 0 ? max_voxels : HN_NIFTI_MAX_VOXELS;
    const int64_t *dim = f->dim;
    if (dim[0] < 1 || dim[0] > 7)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %" PRId64 " axes: 1 to 7 are possible", f->name, dim[0]);
    for (int i = 1; i <= dim[0]; i++)
        if (dim[i] < 1 || dim[i] > HN_NIFTI_MAX_SIDE)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: axis %d has length %" PRId64 ": 1 to %d are possible", f->name, i,
                           dim[i], HN_NIFTI_MAX_SIDE);
    if (dim[0] < 3)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: %" PRId64 " axes: a volume has 3 or 4", f->name,
                       dim[0]);
    for (int i = 5; i <= dim[0]; i++)
        if (dim[i] != 1)
            return HN_FAIL(HN_ERR_UNSUPPORTED,
                           "%s: axis %d has length %" PRId64 ": only 3-D and 4-D files are read",
                           f->name, i, dim[i]);
    place->voxels = dim[1] * dim[2] * dim[3]; /* below 2^45 */
    if (place->voxels > most)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: %" PRId64 " x %" PRId64 " x %" PRId64
                       " voxels are more than the limit of %" PRId64,
                       f->name, dim[1], dim[2], dim[3], most);
    info->nx = dim[1];
    info->ny = dim[2];
    info->nz = dim[3];
    info->volumes = dim[0] >= 4 ? dim[4] : 1;
    return HN_OK;
}

static hn_status check_type(const fields *f, hn_nifti_info *info, hn_nifti_place *place)
{
    static const struct {
        int code, bits;
        hn_nifti_type type;
        const char *name;
    } read[] = {{2, 8, HN_NIFTI_U8, "uint8"},      {256, 8, HN_NIFTI_I8, "int8"},
                {4, 16, HN_NIFTI_I16, "int16"},    {512, 16, HN_NIFTI_U16, "uint16"},
                {8, 32, HN_NIFTI_I32, "int32"},    {768, 32, HN_NIFTI_U32, "uint32"},
                {16, 32, HN_NIFTI_F32, "float32"}, {64, 64, HN_NIFTI_F64, "float64"}};
    static const struct {
        int code;
        const char *name;
    } other[] = {{1, "binary"},        {32, "complex64"},    {128, "RGB24"},
                 {1024, "int64"},      {1280, "uint64"},     {1536, "float128"},
                 {1792, "complex128"}, {2048, "complex256"}, {2304, "RGBA32"}};
    for (size_t i = 0; i < sizeof read / sizeof *read; i++) {
        if (read[i].code != f->type_code) continue;
        if (read[i].bits != f->bits)
            return HN_FAIL(HN_ERR_FORMAT, "%s: %s has %d bits, the header says %d", f->name,
                           read[i].name, read[i].bits, f->bits);
        info->type = read[i].name;
        place->type = read[i].type;
        place->volume_bytes = place->voxels * (read[i].bits / 8);
        return HN_OK;
    }
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        if (other[i].code == f->type_code)
            return HN_FAIL(
                HN_ERR_UNSUPPORTED,
                "%s: values of type %s: only uint8 to uint32, float32 and float64 are read",
                f->name, other[i].name);
    return HN_FAIL(HN_ERR_FORMAT, "%s: no type of values has the number %d", f->name, f->type_code);
}

static hn_status check_offset(const fields *f, hn_nifti_info *info, hn_nifti_place *place)
{
    const int64_t head = info->nifti2 ? HN_NIFTI2_HEAD : HN_NIFTI1_HEAD;
    const int64_t least = info->pair ? 0 : head + 4;
    if (!(f->offset >= (double)least && f->offset <= HN_NIFTI_MAX_OFFSET) ||
        f->offset != floor(f->offset))
        return HN_FAIL(HN_ERR_FORMAT, "%s: vox_offset %g: a whole number from %" PRId64 " to %d",
                       f->name, f->offset, least, HN_NIFTI_MAX_OFFSET);
    place->offset = (int64_t)f->offset;
    place->end = place->offset + place->volume_bytes * info->volumes; /* below 2^63 */
    info->extension_bytes = !info->pair && f->extender != 0 ? place->offset - least : 0;
    return HN_OK;
}

static hn_status check_scaling(const fields *f, hn_nifti_info *info)
{
    info->slope = 1;
    info->inter = 0;
    info->scaled = !isnan(f->slope) && f->slope != 0 && (f->slope != 1 || f->inter != 0);
    if (!info->scaled) return HN_OK;
    if (!isfinite(f->slope) || !isfinite(f->inter))
        return HN_FAIL(HN_ERR_FORMAT, "%s: values are scaled by %g and shifted by %g", f->name,
                       f->slope, f->inter);
    info->slope = f->slope;
    info->inter = f->inter;
    return HN_OK;
}

/* ---- place in space ---- */

static hn_status check_space(const fields *f, hn_nifti_space *s)
{
    for (int i = 1; i <= 3; i++) {
        const double size = fabs(f->pixdim[i]);
        if (!isfinite(size) || size <= 0)
            return HN_FAIL(HN_ERR_FORMAT, "%s: a voxel of size %g along axis %d", f->name,
                           f->pixdim[i], i);
        s->pixdim[i] = size;
    }
    s->pixdim[0] = f->pixdim[0] < 0 ? -1 : 1;
    s->unit = f->unit <= 3 ? f->unit : 0;
    s->qform_code = f->qform_code > 0 ? f->qform_code : 0;
    s->sform_code = f->sform_code > 0 ? f->sform_code : 0;
    bool finite = true;
    for (int i = 0; i < 3 && s->qform_code > 0; i++) {
        s->quatern[i] = f->quatern[i];
        s->q_offset[i] = f->q_offset[i];
        finite = finite && isfinite(f->quatern[i]) && isfinite(f->q_offset[i]);
    }
    const double *q = s->quatern;
    if (!finite || q[0] * q[0] + q[1] * q[1] + q[2] * q[2] > 1 + 1e-5)
        return HN_FAIL(HN_ERR_FORMAT, "%s: qform: (%g, %g, %g) at (%g, %g, %g) is no rotation",
                       f->name, q[0], q[1], q[2], s->q_offset[0], s->q_offset[1], s->q_offset[2]);
    for (int i = 0; i < 3 && s->sform_code > 0; i++)
        for (int k = 0; k < 4; k++) {
            s->srow[i][k] = f->srow[i][k];
            if (!isfinite(f->srow[i][k]))
                return HN_FAIL(HN_ERR_FORMAT, "%s: sform: row %d holds %g", f->name, i,
                               f->srow[i][k]);
        }
    return HN_OK;
}

/* nifti1.h, method 2. */
static void affine_of_qform(const hn_nifti_space *s, double out[3][4])
{
    double b = s->quatern[0], c = s->quatern[1], d = s->quatern[2];
    double a = 1 - (b * b + c * c + d * d);
    if (a < 1e-7) { /* half a turn, with rounding */
        const double norm = 1 / sqrt(b * b + c * c + d * d);
        b *= norm, c *= norm, d *= norm;
        a = 0;
    } else {
        a = sqrt(a);
    }
    const double r[3][3] = {
        {a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)},
        {2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)},
        {2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c}};
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 3; k++) out[i][k] = r[i][k] * s->pixdim[k + 1];
        out[i][2] *= s->pixdim[0];
        out[i][3] = s->q_offset[i];
    }
}

static hn_status settle_affine(const char *name, hn_nifti_info *info)
{
    const hn_nifti_space *s = &info->space;
    const double mm = s->unit == 1 ? 1e3 : s->unit == 3 ? 1e-3 : 1;
    memset(info->affine, 0, sizeof info->affine);
    if (s->sform_code > 0)
        memcpy(info->affine, s->srow, sizeof info->affine);
    else if (s->qform_code > 0)
        affine_of_qform(s, info->affine);
    else
        for (int i = 0; i < 3; i++) info->affine[i][i] = s->pixdim[i + 1];
    for (int i = 0; i < 3; i++) {
        info->voxel_mm[i] = mm * s->pixdim[i + 1];
        for (int k = 0; k < 4; k++) info->affine[i][k] *= mm;
    }
    double(*const m)[4] = info->affine;
    const double det = m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) -
                       m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0]) +
                       m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
    if (!(fabs(det) > 0) || !isfinite(det))
        return HN_FAIL(HN_ERR_FORMAT, "%s: sform: its determinant is %g", name, det);
    return HN_OK;
}

hn_status hn_nifti_parse(const uint8_t *head, size_t n_bytes, const char *name, int64_t max_voxels,
                         hn_nifti_info *info, hn_nifti_place *place)
{
    fields f = {.name = name};
    *info = (hn_nifti_info){0};
    *place = (hn_nifti_place){0};
    HN_TRY(recognise(head, n_bytes, name, info));
    const bytes b = {head, info->big_endian};
    const size_t size = info->nifti2 ? HN_NIFTI2_HEAD : HN_NIFTI1_HEAD;
    if (info->nifti2)
        fetch2(b, &f);
    else
        fetch1(b, &f);
    f.extender = n_bytes > size ? head[size] : 0;
    HN_TRY(check_sizes(&f, max_voxels, info, place));
    HN_TRY(check_type(&f, info, place));
    HN_TRY(check_offset(&f, info, place));
    HN_TRY(check_scaling(&f, info));
    HN_TRY(check_space(&f, &info->space));
    return settle_affine(name, info);
}
