/* Writing a mask: 352 bytes of header, then the voxels, first axis fastest, through deflate where
 * the name asks for it. */
#include <inttypes.h>
#include <string.h>
#include <zlib.h>

#include "runtime/base/alloc.h"
#include "runtime/base/save.h"
#include "runtime/data/nifti_impl.h"

enum { DATA_AT = HN_NIFTI1_HEAD + 4, LEVEL = 6 };

/* ---- header ---- */

static void put(uint8_t *head, int at, uint32_t v, int n)
{
    for (int i = 0; i < n; i++) head[at + i] = (uint8_t)(v >> 8 * i);
}

static void put_i16(uint8_t *head, int at, int64_t v) { put(head, at, (uint32_t)v, 2); }

static void put_f32(uint8_t *head, int at, double v)
{
    const float f = (float)v;
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    put(head, at, u, 4);
}

static void make_head(const hn_nifti_info *of, uint8_t head[DATA_AT])
{
    const hn_nifti_space *s = &of->space;
    memset(head, 0, DATA_AT);
    put(head, 0, HN_NIFTI1_HEAD, 4);
    const int64_t dim[8] = {3, of->nx, of->ny, of->nz, 1, 1, 1, 1};
    for (int i = 0; i < 8; i++) {
        put_i16(head, 40 + 2 * i, dim[i]);
        put_f32(head, 76 + 4 * i, i < 4 ? s->pixdim[i] : 0);
    }
    put_i16(head, 70, 2); /* uint8 */
    put_i16(head, 72, 8);
    put_f32(head, 108, DATA_AT);
    put_f32(head, 112, 1);
    head[123] = (uint8_t)s->unit;
    put_i16(head, 252, s->qform_code);
    put_i16(head, 254, s->sform_code);
    for (int i = 0; i < 3; i++) {
        put_f32(head, 256 + 4 * i, s->quatern[i]);
        put_f32(head, 268 + 4 * i, s->q_offset[i]);
        for (int k = 0; k < 4; k++) put_f32(head, 280 + 16 * i + 4 * k, s->srow[i][k]);
    }
    memcpy(head + 344, "n+1", 4);
}

/* ---- bytes, compressed or not ---- */

typedef struct {
    hn_saver *saver;
    bool gzip;
    z_stream z;
    uint8_t room[1 << 14];
} sink;

static void *z_take(void *context, unsigned n, unsigned size)
{
    (void)context;
    return hn_calloc(n, size);
}

static void z_give(void *context, void *p)
{
    (void)context;
    hn_free(p);
}

static hn_status sink_write(sink *s, uint8_t *data, size_t n, bool last)
{
    if (!s->gzip) return hn_saver_write(s->saver, data, n);
    int rc = Z_OK;
    s->z.next_in = data;
    s->z.avail_in = (uInt)n; /* a line or a header */
    do {
        s->z.next_out = s->room;
        s->z.avail_out = sizeof s->room;
        rc = deflate(&s->z, last ? Z_FINISH : Z_NO_FLUSH);
        if (rc == Z_STREAM_ERROR) return HN_FAIL(HN_ERR_IO, "deflate failed");
        HN_TRY(hn_saver_write(s->saver, s->room, sizeof s->room - s->z.avail_out));
    } while (s->z.avail_out == 0 || (last && rc != Z_STREAM_END));
    return HN_OK;
}

static hn_status write_all(sink *s, const hn_nifti_info *of, const uint8_t *mask)
{
    const int64_t nx = of->nx, ny = of->ny, nz = of->nz;
    uint8_t head[DATA_AT], line[HN_NIFTI_MAX_SIDE];
    make_head(of, head);
    HN_TRY(sink_write(s, head, sizeof head, false));
    for (int64_t z = 0; z < nz; z++)
        for (int64_t y = 0; y < ny; y++) {
            for (int64_t x = 0; x < nx; x++) line[x] = mask[(x * ny + y) * nz + z];
            HN_TRY(sink_write(s, line, (size_t)nx, z + 1 == nz && y + 1 == ny));
        }
    return HN_OK;
}

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);
    return n > m && strcmp(s + n - m, end) == 0;
}

hn_status hn_nifti_save_mask(const char *path, const hn_nifti_info *of, const uint8_t *mask)
{
    sink s = {.gzip = ends_with(path, ".nii.gz")};
    if (!s.gzip && !ends_with(path, ".nii"))
        return HN_FAIL(HN_ERR_ARG, "%s: the name of a mask ends in .nii or .nii.gz", path);
    const int64_t side[] = {of->nx, of->ny, of->nz};
    for (int i = 0; i < 3; i++)
        if (side[i] < 1 || side[i] > HN_NIFTI_MAX_SIDE)
            return HN_FAIL(HN_ERR_SHAPE,
                           "%s: a mask of %" PRId64 " x %" PRId64 " x %" PRId64 " voxels", path,
                           of->nx, of->ny, of->nz);
    s.z.zalloc = z_take;
    s.z.zfree = z_give;
    /* 16: a gzip header, whose time and name stay empty */
    if (s.gzip &&
        deflateInit2(&s.z, LEVEL, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return HN_FAIL(HN_ERR_MEMORY, "%s: no memory to compress", path);
    hn_status st = hn_saver_open(path, &s.saver);
    if (st == HN_OK) st = write_all(&s, of, mask);
    if (s.gzip) deflateEnd(&s.z);
    if (st == HN_OK) return hn_saver_commit(s.saver, NULL, NULL);
    hn_saver_abort(s.saver);
    return st;
}
