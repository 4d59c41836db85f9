#define _POSIX_C_SOURCE 200809L
#include "runtime/data/source_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "runtime/base/alloc.h"

enum { RAW = 1 << 16, MARK = 3 /* bytes of a byte order mark */ };

struct hn_reader {
    char *name;
    int fd; /* -1: memory */
    const unsigned char *memory;
    size_t memory_left;
    bool binary;
    bool gzip, in_member; /* in_member: a gzip member has begun and not ended */
    z_stream z;
    size_t raw_at, raw_n; /* undelivered bytes of raw */
    size_t head_at, head_n;
    unsigned char head[MARK]; /* first bytes of the text, read at open to find the mark */
    unsigned char raw[RAW];
};

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

/* Fills raw; raw_n stays 0 at the end of the file. */
static hn_status refill(hn_reader *r)
{
    r->raw_at = r->raw_n = 0;
    if (r->fd < 0) {
        const size_t n = r->memory_left < RAW ? r->memory_left : RAW;
        if (n > 0) memcpy(r->raw, r->memory, n);
        r->memory += n;
        r->memory_left -= n;
        r->raw_n = n;
        return HN_OK;
    }
    ssize_t n;
    do n = read(r->fd, r->raw, RAW);
    while (n < 0 && errno == EINTR);
    if (n < 0) return HN_FAIL(HN_ERR_IO, "read %s: %s", r->name, strerror(errno));
    r->raw_n = (size_t)n;
    return HN_OK;
}

static hn_status read_plain(hn_reader *r, void *to, size_t room, size_t *got)
{
    if (r->raw_at == r->raw_n) HN_TRY(refill(r));
    const size_t left = r->raw_n - r->raw_at, n = left < room ? left : room;
    if (n > 0) memcpy(to, r->raw + r->raw_at, n);
    r->raw_at += n;
    *got = n;
    return HN_OK;
}

static hn_status read_gzip(hn_reader *r, void *to, size_t room, size_t *got)
{
    const uInt wanted = room < RAW ? (uInt)room : RAW;
    r->z.next_out = to;
    r->z.avail_out = wanted;
    while (r->z.avail_out == wanted) {
        if (r->raw_at == r->raw_n) HN_TRY(refill(r));
        if (r->raw_n == 0) {
            if (r->in_member) return HN_FAIL(HN_ERR_FORMAT, "%s: gzip data is cut off", r->name);
            break;
        }
        if (!r->in_member && inflateReset(&r->z) != Z_OK)
            return HN_FAIL(HN_ERR_FORMAT, "%s: gzip reader cannot be reset", r->name);
        r->in_member = true;
        r->z.next_in = r->raw + r->raw_at;
        r->z.avail_in = (uInt)(r->raw_n - r->raw_at);
        const int rc = inflate(&r->z, Z_NO_FLUSH);
        r->raw_at = r->raw_n - r->z.avail_in;
        if (rc == Z_STREAM_END)
            r->in_member = false; /* another member may follow */
        else if (rc == Z_MEM_ERROR)
            return HN_FAIL(HN_ERR_MEMORY, "%s: no memory to decompress", r->name);
        else if (rc != Z_OK && rc != Z_BUF_ERROR)
            return HN_FAIL(HN_ERR_FORMAT, "%s: damaged gzip data: %s", r->name,
                           r->z.msg ? r->z.msg : "unknown error");
    }
    *got = wanted - r->z.avail_out;
    return HN_OK;
}

static hn_status read_text(hn_reader *r, void *to, size_t room, size_t *got)
{
    return r->gzip ? read_gzip(r, to, room, got) : read_plain(r, to, room, got);
}

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static hn_status start(hn_reader *r)
{
    const bool named = ends_with(r->name, ".gz");
    HN_TRY(refill(r));
    r->gzip = r->raw_n >= 2 && r->raw[0] == 0x1f && r->raw[1] == 0x8b && (named || !r->binary);
    if (!r->gzip && named) return HN_FAIL(HN_ERR_FORMAT, "%s: not gzip data", r->name);
    if (r->gzip) {
        r->z.zalloc = z_take;
        r->z.zfree = z_give;
        if (inflateInit2(&r->z, 16 + MAX_WBITS) != Z_OK) {
            r->gzip = false;
            return HN_FAIL(HN_ERR_MEMORY, "%s: no memory to decompress", r->name);
        }
    }
    size_t got = r->binary ? 0 : 1;
    while (r->head_n < MARK && got > 0) {
        HN_TRY(read_text(r, r->head + r->head_n, MARK - r->head_n, &got));
        r->head_n += got;
    }
    if (r->head_n == MARK && memcmp(r->head, "\xef\xbb\xbf", MARK) == 0) r->head_at = MARK;
    return HN_OK;
}

static hn_status reader_new(const char *name, hn_reader **out)
{
    hn_reader *r = hn_malloc(sizeof *r);
    if (r == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes to read %s", sizeof *r, name);
    memset(r, 0, offsetof(struct hn_reader, raw));
    r->fd = -1;
    r->name = hn_strdup(name);
    if (r->name == NULL) {
        hn_free(r);
        return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", name);
    }
    *out = r;
    return HN_OK;
}

static hn_status open_file(const char *path, bool binary, hn_reader **out)
{
    hn_reader *r = NULL;
    struct stat info;
    HN_TRY(reader_new(path, &r));
    hn_status st = HN_OK;
    r->binary = binary;
    r->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not block */
    if (r->fd < 0)
        st = HN_FAIL(HN_ERR_IO, "open %s: %s", path, strerror(errno));
    else if (fstat(r->fd, &info) != 0)
        st = HN_FAIL(HN_ERR_IO, "stat %s: %s", path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        st = HN_FAIL(HN_ERR_IO, "%s: not a regular file", path);
    else
        st = start(r);
    if (st != HN_OK)
        hn_reader_close(r);
    else
        *out = r;
    return st;
}

static hn_status open_memory(const void *data, size_t n_bytes, const char *name, bool binary,
                             hn_reader **out)
{
    hn_reader *r = NULL;
    HN_TRY(reader_new(name, &r));
    r->binary = binary;
    r->memory = data;
    r->memory_left = n_bytes;
    const hn_status st = start(r);
    if (st != HN_OK)
        hn_reader_close(r);
    else
        *out = r;
    return st;
}

hn_status hn_reader_open(const char *path, hn_reader **out) { return open_file(path, false, out); }

hn_status hn_reader_open_memory(const void *data, size_t n_bytes, const char *name, hn_reader **out)
{
    return open_memory(data, n_bytes, name, false, out);
}

hn_status hn_reader_open_binary(const char *name, const void *data, size_t n_bytes, hn_reader **out)
{
    return data == NULL ? open_file(name, true, out) : open_memory(data, n_bytes, name, true, out);
}

hn_status hn_reader_read(hn_reader *r, void *to, size_t room, size_t *got)
{
    const size_t left = r->head_n - r->head_at;
    if (left == 0) return read_text(r, to, room, got);
    *got = left < room ? left : room;
    memcpy(to, r->head + r->head_at, *got);
    r->head_at += *got;
    return HN_OK;
}

void hn_reader_close(hn_reader *r)
{
    if (r == NULL) return;
    if (r->gzip) inflateEnd(&r->z);
    if (r->fd >= 0) close(r->fd);
    hn_free(r->name);
    hn_free(r);
}
