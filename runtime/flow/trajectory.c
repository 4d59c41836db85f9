/* The layout that writer and reader share. */
#include "runtime/flow/trajectory.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "runtime/base/label.h"
#include "runtime/flow/trajectory_impl.h"

static const char magic[16] = "hone flow 1\n";

enum { HEX = HN_SHA256_HEX - 1, MOST_KNOTS = 1024, MOST_NUMBERS = 1 << 24, MOST_SUPPORT = 1 << 20 };

static hn_status check_range(const char *what, int64_t v, int64_t least, int64_t most)
{
    if (v >= least && v <= most) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "trajectories: %s is %" PRId64 ", not %" PRId64 " to %" PRId64, what,
                   v, least, most);
}

static hn_status check_digest(const char *what, const char *hex)
{
    for (int i = 0; i < HEX; i++)
        if (!((hex[i] >= '0' && hex[i] <= '9') || (hex[i] >= 'a' && hex[i] <= 'f')))
            return HN_FAIL(HN_ERR_ARG, "trajectories: digest of the %s is not 64 hex digits", what);
    if (hex[HEX] != '\0')
        return HN_FAIL(HN_ERR_ARG, "trajectories: digest of the %s is too long", what);
    return HN_OK;
}

/* Names with commas between. */
static int32_t domain_count(const hn_trajectory_head *h)
{
    int32_t n = 1;
    for (const char *s = h->domains; *s; s++) n += *s == ',';
    return n;
}

static hn_status check_domains(const hn_trajectory_head *h)
{
    const char *const s = h->domains;
    if (memchr(s, '\0', sizeof h->domains) == NULL)
        return HN_FAIL(HN_ERR_ARG, "trajectories: names of domains beyond %d bytes",
                       HN_TRAJECTORY_DOMAINS - 1);
    const size_t n = strlen(s);
    if (n == 0 || s[0] == ',' || s[n - 1] == ',' || strstr(s, ",,") != NULL)
        return HN_FAIL(HN_ERR_ARG, "trajectories: a domain without a name in '%s'", s);
    return HN_OK;
}

hn_status hn_trajectory_check(const hn_trajectory_head *h)
{
    HN_TRY(check_range("number of records", h->records, 1, INT32_MAX));
    HN_TRY(check_range("number of knots", h->knots, 2, MOST_KNOTS));
    HN_TRY(check_range("numbers of a knot", h->numbers, 1, MOST_NUMBERS - 1));
    HN_TRY(check_range("support images", h->support, 1, MOST_SUPPORT - 1));
    HN_TRY(check_digest("layout", h->layout));
    HN_TRY(check_digest("backbone", h->backbone));
    return check_domains(h);
}

/* Below 2^36 bytes a record by the limits of the head: no sum overflows. */
hn_status hn_trajectory_places_of_(const hn_trajectory_head *h, hn_trajectory_places *out)
{
    HN_TRY(hn_trajectory_check(h));
    hn_trajectory_places p;
    p.image = sizeof(hn_trajectory_record);
    p.label = p.image + (size_t)h->support * sizeof(int32_t);
    p.knot = p.label + (size_t)h->support * sizeof(int32_t);
    const size_t end = p.knot + (size_t)h->knots * (size_t)h->numbers * sizeof(hn_f16);
    p.n_bytes = (end + HN_TRAJECTORY_ALIGN - 1) / HN_TRAJECTORY_ALIGN * HN_TRAJECTORY_ALIGN;
    if ((uint64_t)h->records > (UINT64_MAX >> 2) / p.n_bytes)
        return HN_FAIL(HN_ERR_ARG, "trajectories: %" PRId64 " records of %zu bytes", h->records,
                       p.n_bytes);
    *out = p;
    return HN_OK;
}

hn_status hn_trajectory_budget(const hn_trajectory_head *h, hn_trajectory_bytes *out)
{
    hn_trajectory_places p = {0};
    HN_TRY(hn_trajectory_places_of_(h, &p));
    out->record_bytes = p.n_bytes;
    out->file_bytes = hn_trajectory_at_(&p, h->records);
    return HN_OK;
}

uint32_t hn_trajectory_crc_(const unsigned char *record, size_t n_bytes, int64_t number,
                            uint32_t head_crc)
{
    const uint64_t salt[2] = {(uint64_t)number, head_crc};
    uLong crc = crc32(0, (const Bytef *)salt, sizeof salt);
    const size_t first = sizeof(uint32_t); /* behind the sum itself */
    return (uint32_t)crc32_z(crc, record + first, n_bytes - first);
}

hn_trajectory_file_head hn_trajectory_pack_head_(const hn_trajectory_head *h)
{
    hn_trajectory_file_head f;
    memset(&f, 0, sizeof f);
    memcpy(f.magic, magic, sizeof magic);
    f.records = h->records;
    f.knots = h->knots;
    f.numbers = h->numbers;
    f.support = h->support;
    memcpy(f.layout, h->layout, HEX);
    memcpy(f.backbone, h->backbone, HEX);
    memcpy(f.domains, h->domains, strlen(h->domains));
    f.crc = (uint32_t)crc32(0, (const Bytef *)&f, offsetof(hn_trajectory_file_head, crc));
    return f;
}

hn_status hn_trajectory_unpack_head_(const char *path, const unsigned char *data,
                                     hn_trajectory_head *out, uint32_t *crc)
{
    hn_trajectory_file_head f;
    memcpy(&f, data, sizeof f);
    if (memcmp(f.magic, magic, sizeof magic) != 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: not a trajectory file of this version", path);
    if (f.crc != (uint32_t)crc32(0, (const Bytef *)&f, offsetof(hn_trajectory_file_head, crc)))
        return HN_FAIL(HN_ERR_FORMAT, "%s: the head is damaged", path);
    memset(out, 0, sizeof *out);
    out->records = f.records;
    out->knots = f.knots;
    out->numbers = f.numbers;
    out->support = f.support;
    memcpy(out->layout, f.layout, HEX);
    memcpy(out->backbone, f.backbone, HEX);
    memcpy(out->domains, f.domains, sizeof f.domains);
    *crc = f.crc;
    if (hn_trajectory_check(out) == HN_OK) return HN_OK;
    char why[256];
    snprintf(why, sizeof why, "%s", hn_last_error());
    return HN_FAIL(HN_ERR_FORMAT, "%s: %s", path, why);
}

const char *hn_trajectory_fault_(const hn_trajectory_head *h, const hn_trajectory_facts *f)
{
    if (f->domain < 0 || f->domain >= domain_count(h)) return "domain is none of the file's";
    if (f->episode < 0) return "number of the episode is negative";
    if (f->init < 0) return "number of the start is negative";
    if (!(f->unit > 0.0f) || !isfinite(f->unit)) return "unit is not positive";
    if (!isfinite(f->loss_first) || !isfinite(f->loss_last)) return "support loss is not finite";
    if (f->images < 1 || f->images > h->support)
        return "more or fewer support images than the file has room for";
    return NULL;
}

/* The arrays of a record lie on multiples of their size: the map begins on a page, records on a
 * multiple of 64, and places follow sizes of 4 and 2 bytes. */
void hn_trajectory_view_(const unsigned char *record, const hn_trajectory_places *p,
                         hn_trajectory *out)
{
    memcpy(&out->facts, record + offsetof(hn_trajectory_record, facts), sizeof out->facts);
    out->image = (const int32_t *)(const void *)(record + p->image);
    out->label = (const int32_t *)(const void *)(record + p->label);
    out->knot = (const hn_f16 *)(const void *)(record + p->knot);
}

bool hn_trajectory_is_sound_(const hn_trajectory_head *h, const hn_trajectory *t)
{
    if (hn_trajectory_fault_(h, &t->facts) != NULL) return false;
    for (int64_t i = 0; i < h->support; i++) {
        const bool there = i < t->facts.images;
        if (there ? t->image[i] < 0 || t->label[i] < 0
                  : t->image[i] != -1 || t->label[i] != HN_LABEL_IGNORED)
            return false;
    }
    for (int64_t i = 0; i < h->knots * h->numbers; i++)
        if ((t->knot[i].bits & 0x7c00u) == 0x7c00u) return false;
    return true;
}
