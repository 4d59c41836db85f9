#define _POSIX_C_SOURCE 200809L
#include "runtime/file/tfevents.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/alloc.h"
#include "runtime/base/save.h"

enum { MAX_RECORD = 1 << 16, MAX_TAG = 200, MAX_TRIES = 1000 };

struct hn_tfevents {
    char *path;
    int fd;
    off_t size;
    size_t used; /* bytes of the record that is being made */
    unsigned char record[MAX_RECORD];
};

uint32_t hn_crc32c(const void *data, size_t n)
{
    const unsigned char *p = data;
    uint32_t crc = 0xffffffffu;
    for (; n > 0; n--) {
        crc ^= *p++;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

uint32_t hn_crc32c_masked(const void *data, size_t n)
{
    const uint32_t crc = hn_crc32c(data, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void put_u32(unsigned char *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (unsigned char)(v >> 8 * i);
}

static void put_u64(unsigned char *p, uint64_t v)
{
    for (int i = 0; i < 8; i++) p[i] = (unsigned char)(v >> 8 * i);
}

static size_t varint(unsigned char *p, uint64_t v)
{
    size_t n = 0;
    for (; v >= 0x80; v >>= 7) p[n++] = (unsigned char)(v | 0x80);
    p[n++] = (unsigned char)v;
    return n;
}

enum { HEAD = 12, TAIL = 4 }; /* length and its CRC; CRC of the payload */

static void begin_event(hn_tfevents *w, double wall_time)
{
    uint64_t bits;
    memcpy(&bits, &wall_time, sizeof bits);
    w->record[HEAD] = 0x09; /* field 1, 64 bits */
    put_u64(w->record + HEAD + 1, bits);
    w->used = HEAD + 9;
}

/* Puts head and tail round the payload and writes it. */
static hn_status end_event(hn_tfevents *w)
{
    const size_t payload = w->used - HEAD;
    put_u64(w->record, payload);
    put_u32(w->record + 8, hn_crc32c_masked(w->record, 8));
    put_u32(w->record + w->used, hn_crc32c_masked(w->record + HEAD, payload));
    w->used += TAIL;
    for (size_t done = 0; done < w->used;) {
        const ssize_t n = write(w->fd, w->record + done, w->used - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            const int why = errno;
            /* Readers stop at half a record: take it back. That may fail as well; the first
             * error is the one to report. */
            const int ignored = ftruncate(w->fd, w->size);
            (void)ignored;
            return HN_FAIL(hn_write_status(why), "write %s: %s", w->path, strerror(why));
        }
        done += (size_t)n;
    }
    w->size += (off_t)w->used;
    return HN_OK;
}

static double now(void)
{
    struct timespec t = {0};
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static hn_status write_version(hn_tfevents *w)
{
    static const char version[] = "brain.Event:2";
    begin_event(w, now());
    w->record[w->used++] = 0x1a; /* field 3, text */
    w->record[w->used++] = sizeof version - 1;
    memcpy(w->record + w->used, version, sizeof version - 1);
    w->used += sizeof version - 1;
    return end_event(w);
}

/* A file that is not there yet: the counter in its name goes up until one is free. */
static hn_status create(hn_tfevents *w, const char *dir)
{
    char host[128] = "";
    if (gethostname(host, sizeof host - 1) != 0 || host[0] == '\0') strcpy(host, "localhost");
    for (char *p = host; *p; p++)
        if (*p == '/') *p = '_';
    for (int counter = 0; counter < MAX_TRIES; counter++) {
        hn_free(w->path);
        w->path = hn_asprintf("%s/events.out.tfevents.%010lld.%s.%ld.%d", dir,
                              (long long)time(NULL), host, (long)getpid(), counter);
        if (w->path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for events in %s", dir);
        w->fd = open(w->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
        if (w->fd >= 0) return HN_OK;
        if (errno != EEXIST) break;
    }
    return HN_FAIL(hn_write_status(errno), "create %s: %s", w->path, strerror(errno));
}

hn_status hn_tfevents_open(const char *dir, hn_tfevents **out)
{
    hn_status st;
    hn_tfevents *w = hn_malloc(sizeof *w);
    if (w == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for events in %s", dir);
    w->path = NULL;
    w->fd = -1;
    w->size = 0;
    HN_TRY_GOTO(st, hn_make_dirs(dir), done);
    HN_TRY_GOTO(st, create(w, dir), done);
    HN_TRY_GOTO(st, write_version(w), done);
    *out = w;
    w = NULL;

done:
    hn_tfevents_close(w);
    return st;
}

/* Appends one Summary.Value {tag, simple_value}; the room was checked. */
static void put_scalar(hn_tfevents *w, const hn_tf_scalar *s)
{
    const size_t length = strlen(s->tag);
    unsigned char value[MAX_TAG + 16], *p = value;
    uint32_t bits;
    memcpy(&bits, &s->value, sizeof bits);
    *p++ = 0x0a; /* field 1, text */
    p += varint(p, length);
    memcpy(p, s->tag, length);
    p += length;
    *p++ = 0x15; /* field 2, 32 bits */
    put_u32(p, bits);
    p += 4;
    w->record[w->used++] = 0x0a; /* field 1 of Summary */
    w->used += varint(w->record + w->used, (uint64_t)(p - value));
    memcpy(w->record + w->used, value, (size_t)(p - value));
    w->used += (size_t)(p - value);
}

/* Bytes of one Summary.Value with its key and length. */
static size_t scalar_size(const hn_tf_scalar *s)
{
    unsigned char scratch[10];
    const size_t length = strlen(s->tag), value = 1 + varint(scratch, length) + length + 5;
    return 1 + varint(scratch, value) + value;
}

hn_status hn_tfevents_scalars(hn_tfevents *w, double wall_time, int64_t step,
                              const hn_tf_scalar *scalars, int n)
{
    size_t summary = 0;
    if (step < 0 || n < 1)
        return HN_FAIL(HN_ERR_ARG, "%s: step %lld, %d scalars", w->path, (long long)step, n);
    for (int i = 0; i < n; i++) {
        const size_t length = strlen(scalars[i].tag);
        if (length < 1 || length > MAX_TAG)
            return HN_FAIL(HN_ERR_ARG, "%s: tag '%.200s' of %zu bytes, allowed 1..%d", w->path,
                           scalars[i].tag, length, MAX_TAG);
        summary += scalar_size(&scalars[i]);
        if (summary > MAX_RECORD - 64)
            return HN_FAIL(HN_ERR_ARG, "%s: %d scalars are more than a record holds", w->path, n);
    }
    begin_event(w, wall_time > 0 ? wall_time : now());
    w->record[w->used++] = 0x10; /* field 2, varint */
    w->used += varint(w->record + w->used, (uint64_t)step);
    w->record[w->used++] = 0x2a; /* field 5, message */
    w->used += varint(w->record + w->used, summary);
    for (int i = 0; i < n; i++) put_scalar(w, &scalars[i]);
    return end_event(w);
}

const char *hn_tfevents_path(const hn_tfevents *w) { return w->path; }

void hn_tfevents_close(hn_tfevents *w)
{
    if (w == NULL) return;
    if (w->fd >= 0) close(w->fd);
    hn_free(w->path);
    hn_free(w);
}
