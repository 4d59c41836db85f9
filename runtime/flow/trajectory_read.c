#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/flow/trajectory.h"
#include "runtime/flow/trajectory_impl.h"

void hn_trajectories_close(hn_trajectories *t)
{
    if (t == NULL) return;
    hn_mapfile_close(&t->map);
    hn_free(t->record);
    *t = (hn_trajectories){0};
}

enum { EMPTY, WHOLE, DAMAGED };

static unsigned char state_of(const hn_trajectory_head *h, const hn_trajectory_places *p,
                              const unsigned char *record, int64_t number, uint32_t head_crc)
{
    hn_trajectory_record r;
    hn_trajectory t;
    memcpy(&r, record, sizeof r);
    if (r.written == 0 && r.crc == 0) return EMPTY;
    if (r.written != 1 || r.crc != hn_trajectory_crc_(record, p->n_bytes, number, head_crc))
        return DAMAGED;
    hn_trajectory_view_(record, p, &t);
    return hn_trajectory_is_sound_(h, &t) ? WHOLE : DAMAGED;
}

/* The records that count, in order. */
static hn_status find_records(hn_trajectories *t, const hn_trajectory_places *p, uint32_t head_crc)
{
    const int64_t n = t->head.records;
    unsigned char *const state = hn_malloc((size_t)n);
    t->record = hn_malloc((size_t)n * sizeof *t->record);
    if (state == NULL || t->record == NULL) {
        hn_free(state);
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " trajectories", n);
    }
#pragma omp parallel for schedule(dynamic, 64)
    for (int64_t i = 0; i < n; i++)
        state[i] = state_of(&t->head, p, t->map.data + hn_trajectory_at_(p, i), i, head_crc);
    for (int64_t i = 0; i < n; i++) {
        if (state[i] == WHOLE) t->record[t->n++] = i;
        t->damaged += state[i] == DAMAGED;
    }
    hn_free(state);
    return HN_OK;
}

hn_status hn_trajectories_open(const char *path, hn_trajectories *out)
{
    hn_status st = HN_OK;
    hn_trajectories t = {0};
    hn_trajectory_places p;
    uint32_t crc;
    HN_TRY_GOTO(st, hn_mapfile_open(path, &t.map), done);
    if (t.map.size < HN_TRAJECTORY_HEAD_BYTES) {
        st = HN_FAIL(HN_ERR_FORMAT, "%s: %zu bytes are no trajectory file", path, t.map.size);
        goto done;
    }
    HN_TRY_GOTO(st, hn_trajectory_unpack_head_(path, t.map.data, &t.head, &crc), done);
    HN_TRY_GOTO(st, hn_trajectory_places_of_(&t.head, &p), done);
    if (t.map.size != hn_trajectory_at_(&p, t.head.records)) {
        st = HN_FAIL(HN_ERR_FORMAT, "%s: %zu bytes, its %" PRId64 " records end at %" PRIu64, path,
                     t.map.size, t.head.records, hn_trajectory_at_(&p, t.head.records));
        goto done;
    }
    t.record_bytes = p.n_bytes;
    HN_TRY_GOTO(st, find_records(&t, &p, crc), done);
    *out = t;
    t = (hn_trajectories){0};

done:
    hn_trajectories_close(&t);
    return st;
}

/* A record's CRC-32 is salted with that of the head. */
hn_status hn_trajectories_digest(const hn_trajectories *t, char hex[HN_SHA256_HEX])
{
    const hn_trajectory_places p = {.n_bytes = t->record_bytes};
    int64_t(*fact)[2] = hn_malloc(((size_t)t->n + 1) * sizeof *fact);
    if (fact == NULL) return HN_FAIL(HN_ERR_MEMORY, "digest of %" PRId64 " trajectories", t->n);
    for (int64_t i = 0; i < t->n; i++) {
        hn_trajectory_record r;
        memcpy(&r, t->map.data + hn_trajectory_at_(&p, t->record[i]), sizeof r);
        fact[i][0] = t->record[i];
        fact[i][1] = (int64_t)r.crc;
    }
    const hn_status st = hn_sha256(fact, (size_t)t->n * sizeof *fact, hex);
    hn_free(fact);
    return st;
}

void hn_trajectories_at(const hn_trajectories *t, int64_t i, hn_trajectory *out)
{
    const size_t image = sizeof(hn_trajectory_record);
    const size_t list = (size_t)t->head.support * sizeof(int32_t);
    const hn_trajectory_places p = {image, image + list, image + 2 * list, t->record_bytes};
    hn_trajectory_view_(t->map.data + hn_trajectory_at_(&p, t->record[i]), &p, out);
}

hn_status hn_trajectories_sigma(const hn_trajectories *t, const int64_t *pick, int64_t n,
                                int64_t tokens, float *sigma)
{
    const int64_t numbers = t->head.numbers;
    if (n < 1) return HN_FAIL(HN_ERR_ARG, "the size of no trajectories");
    if (tokens < 1 || numbers % tokens != 0)
        return HN_FAIL(HN_ERR_ARG, "%" PRId64 " numbers are no %" PRId64 " tokens", numbers,
                       tokens);
    const int64_t width = numbers / tokens;
    for (int64_t s = 0; s < tokens; s++) {
        double sum = 0.0;
        for (int64_t i = 0; i < n; i++) {
            hn_trajectory r;
            hn_trajectories_at(t, pick[i], &r);
            const hn_f16 *const last = r.knot + (t->head.knots - 1) * numbers + s * width;
            double square = 0.0;
            for (int64_t c = 0; c < width; c++) {
                const double v = (double)hn_f16_to_f32(last[c]);
                square += v * v;
            }
            sum += square * (double)r.facts.unit * (double)r.facts.unit;
        }
        sigma[s] = (float)sqrt(sum / ((double)n * (double)width));
        if (!(sigma[s] > 0.0f))
            return HN_FAIL(HN_ERR_ARG,
                           "token %" PRId64 " moves in none of %" PRId64 " trajectories", s, n);
    }
    return HN_OK;
}
