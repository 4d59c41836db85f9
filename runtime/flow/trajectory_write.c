/* Records go out by pwrite, one whole record a call: what is cut off by a crash has no fitting sum
 * and is written again. */
#define _DEFAULT_SOURCE /* flock */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/alloc.h"
#include "runtime/base/label.h"
#include "runtime/base/save.h"
#include "runtime/flow/trajectory.h"
#include "runtime/flow/trajectory_impl.h"

struct hn_trajectory_writer {
    char *path;
    int fd; /* -1: none */
    hn_trajectory_head head;
    hn_trajectory_places places;
    uint32_t head_crc;
    const hn_trajectory_share *share; /* while it is opened; NULL: there are no others */
    unsigned char *record;            /* [places.n_bytes] */
};

static void drop(hn_trajectory_writer *w)
{
    if (w == NULL) return;
    if (w->fd >= 0) close(w->fd);
    hn_free(w->path);
    hn_free(w->record);
    hn_free(w);
}

static hn_status io_failure(const hn_trajectory_writer *w, const char *what)
{
    return HN_FAIL(hn_write_status(errno), "%s: cannot %s: %s", w->path, what, strerror(errno));
}

static hn_status write_all(const hn_trajectory_writer *w, const void *data, size_t n, uint64_t at)
{
    const unsigned char *p = data;
    while (n > 0) {
        const ssize_t done = pwrite(w->fd, p, n, (off_t)at);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return io_failure(w, "write");
        p += done;
        at += (uint64_t)done;
        n -= (size_t)done;
    }
    return HN_OK;
}

static hn_status read_all(const hn_trajectory_writer *w, void *data, size_t n, uint64_t at)
{
    unsigned char *p = data;
    while (n > 0) {
        const ssize_t done = pread(w->fd, p, n, (off_t)at);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return io_failure(w, "read");
        if (done == 0) return HN_FAIL(HN_ERR_FORMAT, "%s: ends early", w->path);
        p += done;
        at += (uint64_t)done;
        n -= (size_t)done;
    }
    return HN_OK;
}

/* The head last: a file whose room was not had is not one. */
static hn_status make_file(hn_trajectory_writer *w)
{
    unsigned char bytes[HN_TRAJECTORY_HEAD_BYTES] = {0};
    const hn_trajectory_file_head f = hn_trajectory_pack_head_(&w->head);
    const uint64_t size = hn_trajectory_at_(&w->places, w->head.records);
    memcpy(bytes, &f, sizeof f);
    errno = posix_fallocate(w->fd, 0, (off_t)size);
    if (errno != 0) {
        const hn_status st =
            HN_FAIL(hn_write_status(errno), "%s: no room for %" PRIu64 " bytes: %s", w->path, size,
                    strerror(errno));
        if (ftruncate(w->fd, 0) != 0) return st; /* either way the file has no head */
        return st;
    }
    HN_TRY(write_all(w, bytes, sizeof bytes, 0));
    return fsync(w->fd) == 0 ? HN_OK : io_failure(w, "write");
}

/* ---- a mark that those who share the file know it by ---- */

static hn_status put_mark(const hn_trajectory_writer *w, const unsigned char *mark)
{
    HN_TRY(write_all(w, mark, HN_TRAJECTORY_MARK, HN_TRAJECTORY_MARK_AT));
    return fsync(w->fd) == 0 ? HN_OK : io_failure(w, "write");
}

hn_status hn_trajectory_writer_unmark(hn_trajectory_writer *w)
{
    static const unsigned char none[HN_TRAJECTORY_MARK];
    return put_mark(w, none);
}

/* head: as the file has it. One that was opened and never unmarked is so now. */
static hn_status check_mark(hn_trajectory_writer *w, const unsigned char *head)
{
    static const unsigned char none[HN_TRAJECTORY_MARK];
    const unsigned char *const mark = head + HN_TRAJECTORY_MARK_AT;
    const bool follows = w->share != NULL && !w->share->first;
    if (!follows)
        return memcmp(mark, none, sizeof none) == 0 ? HN_OK : hn_trajectory_writer_unmark(w);
    if (memcmp(mark, w->share->mark, HN_TRAJECTORY_MARK) == 0) return HN_OK;
    return HN_FAIL(HN_ERR_ARG,
                   "%s: not the file of that name that rank 0 writes: all ranks write into one, on "
                   "a file system that their hosts share",
                   w->path);
}

/* ---- */

static hn_status differs(const hn_trajectory_writer *w, const char *what, int64_t has, int64_t want)
{
    return HN_FAIL(HN_ERR_ARG, "%s: has %s %" PRId64 ", not %" PRId64, w->path, what, has, want);
}

/* The file that is there is the one that is wanted. */
static hn_status check_file(hn_trajectory_writer *w, uint64_t size)
{
    unsigned char bytes[HN_TRAJECTORY_HEAD_BYTES];
    hn_trajectory_head has;
    const hn_trajectory_head *want = &w->head;
    uint32_t crc;
    HN_TRY(read_all(w, bytes, sizeof bytes, 0));
    HN_TRY(hn_trajectory_unpack_head_(w->path, bytes, &has, &crc));
    if (has.records != want->records) return differs(w, "records", has.records, want->records);
    if (has.knots != want->knots) return differs(w, "knots", has.knots, want->knots);
    if (has.numbers != want->numbers)
        return differs(w, "numbers of a knot", has.numbers, want->numbers);
    if (has.support != want->support)
        return differs(w, "support images", has.support, want->support);
    if (strcmp(has.layout, want->layout) != 0)
        return HN_FAIL(HN_ERR_ARG, "%s: made for another set of biases", w->path);
    if (strcmp(has.backbone, want->backbone) != 0)
        return HN_FAIL(HN_ERR_ARG, "%s: made from another backbone", w->path);
    if (strcmp(has.domains, want->domains) != 0)
        return HN_FAIL(HN_ERR_ARG, "%s: has the domains %s, not %s", w->path, has.domains,
                       want->domains);
    /* Room is taken anew: a file that was cut off gets back what it lost, as zeros. */
    const uint64_t full = hn_trajectory_at_(&w->places, want->records);
    if (size > full)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %" PRIu64 " bytes, its records end at %" PRIu64, w->path,
                       size, full);
    HN_TRY(check_mark(w, bytes));
    if (size == full) return HN_OK;
    if (w->share != NULL && !w->share->first) /* the first has made it whole */
        return HN_FAIL(HN_ERR_FORMAT, "%s: %" PRIu64 " bytes, its records end at %" PRIu64, w->path,
                       size, full);
    errno = posix_fallocate(w->fd, 0, (off_t)full);
    return errno == 0 ? HN_OK : io_failure(w, "make room");
}

/* Whether a file of `size` bytes, not 0, is one whose writer ended between taking its room and
 * writing its head. */
static hn_status is_headless(const hn_trajectory_writer *w, uint64_t size, bool *yes)
{
    unsigned char bytes[HN_TRAJECTORY_HEAD_BYTES] = {0};
    const uint64_t full = hn_trajectory_at_(&w->places, w->head.records);
    *yes = false;
    if (size > full) return HN_OK;
    HN_TRY(read_all(w, bytes, size < sizeof bytes ? (size_t)size : sizeof bytes, 0));
    *yes = true;
    for (size_t i = 0; i < sizeof bytes; i++) *yes = *yes && bytes[i] == 0;
    return HN_OK;
}

static hn_status lock(const hn_trajectory_writer *w, int kind)
{
    if (flock(w->fd, kind | LOCK_NB) == 0) return HN_OK;
    return HN_FAIL(HN_ERR_IO, "%s: another writer has it", w->path);
}

static hn_status open_file(hn_trajectory_writer *w)
{
    struct stat st;
    const hn_trajectory_share *const s = w->share;
    const bool follows = s != NULL && !s->first;
    w->fd =
        open(w->path, O_RDWR | O_CLOEXEC | (follows ? 0 : O_CREAT) | (s && s->hosts ? O_DSYNC : 0),
             0666);
    if (w->fd < 0 || fstat(w->fd, &st) != 0) return io_failure(w, "open");
    if (!S_ISREG(st.st_mode)) return HN_FAIL(HN_ERR_IO, "%s: not a regular file", w->path);
    HN_TRY(lock(w, follows ? LOCK_SH : LOCK_EX));
    w->head_crc = hn_trajectory_pack_head_(&w->head).crc;
    if (fstat(w->fd, &st) != 0) return io_failure(w, "open"); /* its size under the lock */
    if (follows) return check_file(w, (uint64_t)st.st_size);
    bool fresh = st.st_size == 0;
    if (!fresh) HN_TRY(is_headless(w, (uint64_t)st.st_size, &fresh));
    HN_TRY(fresh ? make_file(w) : check_file(w, (uint64_t)st.st_size));
    if (s == NULL) return HN_OK;
    HN_TRY(put_mark(w, s->mark));
    return lock(w, LOCK_SH);
}

static hn_status open_writer(const char *path, const hn_trajectory_head *h,
                             const hn_trajectory_share *share, hn_trajectory_writer **out)
{
    hn_status st = HN_OK;
    hn_trajectory_writer *w = hn_calloc(1, sizeof *w);
    if (w == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", path);
    w->fd = -1;
    w->head = *h;
    w->share = share;
    HN_TRY_GOTO(st, hn_trajectory_places_of_(h, &w->places), done);
    w->path = hn_strdup(path);
    w->record = hn_malloc(w->places.n_bytes);
    if (w->path == NULL || w->record == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a record of %s", w->places.n_bytes, path);
        goto done;
    }
    HN_TRY_GOTO(st, open_file(w), done);
    w->share = NULL;
    *out = w;
    w = NULL;

done:
    drop(w);
    return st;
}

hn_status hn_trajectory_writer_open(const char *path, const hn_trajectory_head *h,
                                    hn_trajectory_writer **out)
{
    return open_writer(path, h, NULL, out);
}

hn_status hn_trajectory_writer_open_shared(const char *path, const hn_trajectory_head *h,
                                           const hn_trajectory_share *share,
                                           hn_trajectory_writer **out)
{
    return open_writer(path, h, share, out);
}

hn_status hn_trajectory_writer_next(hn_trajectory_writer *w, int64_t from, int64_t *record)
{
    const size_t n = w->places.n_bytes;
    int64_t i = from > 0 ? from : 0;
    for (; i < w->head.records; i++) {
        hn_trajectory_record r;
        HN_TRY(read_all(w, &r, sizeof r, hn_trajectory_at_(&w->places, i)));
        if (r.written != 1) break;
        HN_TRY(read_all(w, w->record, n, hn_trajectory_at_(&w->places, i)));
        if (r.crc != hn_trajectory_crc_(w->record, n, i, w->head_crc)) break;
        hn_trajectory t;
        hn_trajectory_view_(w->record, &w->places, &t);
        if (!hn_trajectory_is_sound_(&w->head, &t)) break; /* as readers see it */
    }
    *record = i;
    return HN_OK;
}

/* knot [knots][D] in units, as fp16. */
static hn_status put_knots(hn_trajectory_writer *w, int64_t record, float unit, const float *knot)
{
    hn_f16 *const to = (hn_f16 *)(void *)(w->record + w->places.knot);
    const int64_t n = w->head.knots * w->head.numbers;
    for (int64_t i = 0; i < n; i++) {
        const hn_f16 h = hn_f16_from_f32(knot[i] / unit);
        if ((h.bits & 0x7c00u) == 0x7c00u)
            return HN_FAIL(HN_ERR_ARG,
                           "%s: record %" PRId64 ", knot %" PRId64 ", number %" PRId64
                           ": %g is %g units, beyond fp16",
                           w->path, record, i / w->head.numbers, i % w->head.numbers,
                           (double)knot[i], (double)(knot[i] / unit));
        to[i] = h;
    }
    return HN_OK;
}

hn_status hn_trajectory_put(hn_trajectory_writer *w, int64_t record,
                            const hn_trajectory_facts *facts, const int32_t *image,
                            const int32_t *label, const float *knot)
{
    const size_t n = w->places.n_bytes;
    if (record < 0 || record >= w->head.records)
        return HN_FAIL(HN_ERR_ARG, "%s: record %" PRId64 " of %" PRId64, w->path, record,
                       w->head.records);
    const char *const fault = hn_trajectory_fault_(&w->head, facts);
    if (fault) return HN_FAIL(HN_ERR_ARG, "%s: record %" PRId64 ": %s", w->path, record, fault);
    hn_trajectory_record *const r = (hn_trajectory_record *)(void *)w->record;
    int32_t *const images = (int32_t *)(void *)(w->record + w->places.image);
    int32_t *const labels = (int32_t *)(void *)(w->record + w->places.label);
    memset(w->record, 0, n);
    r->written = 1;
    r->facts = *facts;
    for (int64_t i = 0; i < w->head.support; i++) {
        images[i] = i < facts->images ? image[i] : -1;
        labels[i] = i < facts->images ? label[i] : HN_LABEL_IGNORED;
        if (i < facts->images && (images[i] < 0 || labels[i] < 0))
            return HN_FAIL(HN_ERR_ARG,
                           "%s: record %" PRId64 ": image %" PRId32 " of class %" PRId32, w->path,
                           record, images[i], labels[i]);
    }
    HN_TRY(put_knots(w, record, facts->unit, knot));
    r->crc = hn_trajectory_crc_(w->record, n, record, w->head_crc);
    return write_all(w, w->record, n, hn_trajectory_at_(&w->places, record));
}

hn_status hn_trajectory_writer_flush(hn_trajectory_writer *w)
{
    return fsync(w->fd) == 0 ? HN_OK : io_failure(w, "write");
}

hn_status hn_trajectory_writer_close(hn_trajectory_writer *w)
{
    const hn_status st = hn_trajectory_writer_flush(w);
    drop(w);
    return st;
}
