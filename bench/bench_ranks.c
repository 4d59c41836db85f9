#include "bench/bench_ranks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

hn_status hn_bench_gpus(const char *gpus, int *n)
{
    char why[256] = "", *end;
    HN_TRY(hn_launch_count_devices(n, why, sizeof why));
    if (*n == 0) return HN_FAIL(HN_ERR_UNSUPPORTED, "no GPU: %s", why);
    if (strcmp(gpus, "all") == 0) return HN_OK;
    const long asked = strtol(gpus, &end, 10);
    if (end == gpus || *end != '\0' || asked < 1 || asked > *n)
        return HN_FAIL(HN_ERR_ARG, "--gpus %s: all, or 1 to %d", gpus, *n);
    *n = (int)asked;
    return HN_OK;
}

hn_status hn_bench_rank_device(const hn_ranks *r, hn_device **out)
{
    char why[256] = "", spec[32];
    int visible = 0, index = 0;
    HN_TRY(hn_device_count(&visible, why, sizeof why));
    if (visible == 0) return HN_FAIL(HN_ERR_UNSUPPORTED, "no GPU: %s", why);
    HN_TRY(hn_ranks_device(r, visible, &index));
    snprintf(spec, sizeof spec, "cuda:%d", index);
    return hn_device_open(spec, out);
}

hn_status hn_bench_ranks_open(const char *gpus, const hn_log *log, hn_bench_ranks *out)
{
    hn_ranks r;
    hn_hub_options o;
    *out = (hn_bench_ranks){.size = 1};
    HN_TRY(hn_ranks_find(NULL, NULL, NULL, &r));
    if (r.launcher == HN_LAUNCHER_NONE) {
        hn_launch_options launch = {.n = 1, .log = log};
        hn_launched job = {0};
        if (strcmp(gpus, "1") != 0) HN_TRY(hn_bench_gpus(gpus, &launch.n));
        if (launch.n == 1) return HN_OK;
        HN_TRY(hn_launch(&launch, &job));
        if (!job.is_rank) exit(job.exit_code);
        HN_TRY(hn_ranks_find(NULL, NULL, NULL, &r));
    }
    if (r.size == 1) return HN_OK;
    hn_comm_hub_options(&r, &o);
    o.log = log;
    HN_TRY(hn_hub_open(&o, &out->hub));
    out->rank = r.rank;
    out->size = r.size;
    HN_TRY(hn_bench_rank_device(&r, &out->device));
    return hn_comm_open(out->hub, out->device, &out->comm);
}

void hn_bench_ranks_close(hn_bench_ranks *r, hn_status st)
{
    if (r->hub != NULL && st != HN_OK) hn_hub_fail(r->hub, hn_last_text());
    hn_comm_close(r->comm, st == HN_OK);
    hn_device_close(r->device);
    hn_hub_close(r->hub);
    *r = (hn_bench_ranks){.size = 1};
}
