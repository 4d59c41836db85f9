#include "runtime/train/rank_table.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/check.h"
#include "runtime/base/save.h"

static hn_status check_name(const char *name)
{
    if (name == NULL || name[0] == '\0')
        return HN_FAIL(HN_ERR_ARG, "rank table: a layer without a name");
    for (const char *c = name; *c != '\0'; c++)
        if ((unsigned char)*c < 32 || strchr(",\"\x7f", *c) != NULL)
            return HN_FAIL(HN_ERR_ARG, "rank table: '%s' cannot be a column of a CSV file", name);
    return HN_OK;
}

static hn_status write_row(hn_saver *f, const hn_rank_row *r)
{
    const hn_rank_proximity *const p = &r->near;
    HN_TRY(check_name(r->layer));
    char *text = hn_asprintf("%" PRId64 ",%s,%" PRId64 ",%" PRId64 ",%" PRId64 ",%d,%" PRId64
                             ",%.9g,%.9g,%.9g,%" PRId64 ",%" PRId64 ",%.9g\n",
                             r->task, r->layer, r->m, r->n, r->choice.rank, r->choice.dense ? 1 : 0,
                             r->choice.parameters, p->distance, p->cosine, p->effective_rank,
                             p->k_energy, p->k_reference, p->reference);
    if (text == NULL) return HN_FAIL(HN_ERR_MEMORY, "rank table: no memory for a row");
    const hn_status st = hn_saver_write(f, text, strlen(text));
    hn_free(text);
    return st;
}

hn_status hn_rank_save_csv(const char *path, const hn_rank_row *rows, int64_t n)
{
    static const char head[] = "task,layer,rows,cols,rank,dense,parameters,distance,cosine,"
                               "effective_rank,k_energy,k_reference,reference_norm\n";
    hn_saver *f = NULL;
    if (n > 0) HN_TRY(hn_check_pointer("rank table", "rows", rows));
    HN_TRY(hn_saver_open(path, &f));
    hn_status st = hn_saver_write(f, head, sizeof head - 1);
    for (int64_t i = 0; i < n && st == HN_OK; i++) st = write_row(f, &rows[i]);
    if (st == HN_OK) return hn_saver_commit(f, NULL, NULL);
    hn_saver_abort(f);
    return st;
}
