/* How long generate takes: what its groups have taken so far, for what is left of them: pace.json.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/hyperflow_tune.h"

/* A step is two branches, each forward and backward to the activations, as the plan counts it. */
double hn_hf_group_work(const hn_hyperflow *r, int64_t at_once, const hn_episode_sizes *z,
                        bool queries)
{
    const double support = (double)z->support, steps = (double)r->c->tune_steps;
    double each = support * (4 * steps + 2); /* and the support losses at both ends */
    if (queries) each += support + (double)z->query;
    return each * (double)at_once;
}

static const char *measured_on(const hn_hf_pace *p)
{
    return p->trajectories ? "trajectories" : "validation episodes";
}

/* Of another machine, or of as many ranks as it had not, it says nothing. */
static hn_status read_pace(const hn_hyperflow *r, const char *path, const json_t *o,
                           hn_hf_pace *out)
{
    hn_hf_pace p = {0};
    const char *device = NULL, *on = NULL;
    int64_t version = 0, ranks = 0;
    HN_TRY(hn_json_get_i64(o, "format", path, 1, HN_HYPERFLOW_FORMAT, true, &version));
    HN_TRY(hn_json_get_text(o, "device", path, true, &device));
    HN_TRY(hn_json_get_i64(o, "ranks", path, 1, INT32_MAX, true, &ranks));
    HN_TRY(hn_json_get_text(o, "measured_on", path, true, &on));
    HN_TRY(hn_json_get_f64(o, "seconds", path, true, &p.seconds));
    HN_TRY(hn_json_get_f64(o, "work", path, true, &p.work));
    if (!(p.seconds > 0) || !(p.work > 0) || !isfinite(p.seconds) || !isfinite(p.work))
        return HN_FAIL(HN_ERR_FORMAT, "%s: %g seconds for work of %g, both must be above 0", path,
                       p.seconds, p.work);
    p.trajectories = strcmp(on, "trajectories") == 0;
    p.earlier = true;
    if (strcmp(device, hn_device_text(r->device)) == 0 && ranks == hn_hyperflow_ranks(r)) *out = p;
    return HN_OK;
}

hn_status hn_hf_pace_load(const hn_hyperflow *r, hn_hf_pace *out)
{
    char *path = NULL;
    json_t *o = NULL;
    *out = (hn_hf_pace){0};
    if (!hn_hyperflow_leads(r)) return HN_OK;
    HN_TRY(hn_hyperflow_path(r, "pace.json", &path));
    hn_status st = HN_OK;
    if (hn_is_file(path)) {
        st = hn_json_load(path, &o);
        if (st == HN_OK) st = read_pace(r, path, o, out);
    }
    json_decref(o);
    hn_free(path);
    return st;
}

hn_status hn_hf_pace_save(const hn_hyperflow *r, const hn_hf_pace *p)
{
    char *path = NULL;
    if (!hn_hyperflow_leads(r) || p->earlier || !(p->work > 0) || !(p->seconds > 0)) return HN_OK;
    HN_TRY(hn_hyperflow_path(r, "pace.json", &path));
    json_t *o = json_pack("{s:i, s:s, s:I, s:s, s:f, s:f}", "format", HN_HYPERFLOW_FORMAT, "device",
                          hn_device_text(r->device), "ranks", (json_int_t)hn_hyperflow_ranks(r),
                          "measured_on", measured_on(p), "seconds", p->seconds, "work", p->work);
    const hn_status st =
        o ? hn_json_save(path, o, false) : HN_FAIL(HN_ERR_MEMORY, "no memory for %s", path);
    json_decref(o);
    hn_free(path);
    return st;
}

void hn_hf_pace_text(const hn_hf_pace *p, double work, int64_t records, char out[HN_HF_PACE_TEXT])
{
    const double seconds = p->seconds / p->work * work;
    char time[HN_SHORT_TEXT];
    if (seconds < 60)
        snprintf(time, sizeof time, "%.2g s", seconds);
    else
        hn_short_duration(seconds, time);
    snprintf(out, HN_HF_PACE_TEXT,
             "time: about %s for %" PRId64 " trajectories, at the rate of %s%s", time, records,
             p->earlier ? "an earlier call's " : "this call's ", measured_on(p));
}
