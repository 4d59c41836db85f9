/* The learning rates of trajectories, chosen domain by domain on validation episodes: rates.json.
 */
#include <inttypes.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/hyperflow_tune.h"

static hn_status rates_load(const char *path, json_t **rates)
{
    *rates = NULL;
    if (hn_is_file(path)) return hn_json_load(path, rates);
    *rates = json_object();
    return *rates ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for rates.json");
}

static hn_status rate_keep(const char *path, json_t *rates, const char *domain,
                           const hn_hf_choice *c)
{
    json_t *tried = json_array(), *one = json_object();
    bool ok = tried && one;
    for (int i = 0; ok && i < c->n; i++)
        ok = json_array_append_new(tried, json_pack("{s:f, s:f}", "lr", c->value[i], "accuracy",
                                                    c->accuracy[i])) == 0;
    ok = json_object_set_new(one, "lr", json_real(c->value[c->best])) == 0 && ok;
    ok = json_object_set_new(one, "tried", tried) == 0 && ok;
    ok = json_object_set_new(rates, domain, one) == 0 && ok;
    return ok ? hn_json_save(path, rates, false)
              : HN_FAIL(HN_ERR_MEMORY, "no memory for rates.json");
}

static hn_status choose_rate(hn_hyperflow *r, const hn_hf_domain *d, double *lr, const char *path,
                             json_t *rates, hn_hf_pace *pace)
{
    hn_hf_bench b = {0};
    hn_hf_choice choice = {.what = "lr"};
    for (int i = 0; i < r->n_rates; i++) choice.value[choice.n++] = r->rate[i];
    hn_status st = hn_hf_bench_open(r, d, HN_HF_VALID, HN_HF_VALID, &b);
    if (st == HN_OK) st = hn_hf_choose_rate(r, &b, hn_hf_theta_set(r), &choice, pace);
    hn_hf_bench_close(&b);
    HN_TRY(st);
    *lr = choice.value[choice.best];
    hn_info(&r->log, "%s: learning rate %g, %.2f %% on validation episodes", d->name, *lr,
            100 * choice.accuracy[choice.best]);
    return hn_hyperflow_leads(r) ? rate_keep(path, rates, d->name, &choice) : HN_OK;
}

/* Before the first of them. */
static void say_what_is_measured(const hn_hyperflow *r, const json_t *rates)
{
    int64_t n = 0;
    for (int64_t i = 0; i < r->n_train; i++) n += !json_object_get(rates, r->domain[i].name);
    if (n > 0)
        hn_info(&r->log,
                "time: measured while learning rates are chosen (%" PRId64
                " runs of tuning for each of %" PRId64 " domains), and estimated behind that",
                r->c->valid_episodes * r->n_rates, n);
}

hn_status hn_hf_choose_rates(hn_hyperflow *r, double *lr, hn_hf_pace *pace)
{
    char *path = NULL;
    json_t *rates = NULL;
    HN_TRY(hn_hyperflow_path(r, "rates.json", &path));
    hn_status st = hn_hyperflow_leads(r) ? rates_load(path, &rates) : HN_OK;
    if (st == HN_OK) st = hn_hyperflow_share_json(r, path, &rates);
    if (st == HN_OK) say_what_is_measured(r, rates);
    for (int64_t i = 0; i < r->n_train && st == HN_OK && !r->stopped; i++) {
        const json_t *have = json_object_get(rates, r->domain[i].name);
        if (have != NULL)
            st = hn_json_get_f64(have, "lr", path, true, &lr[i]);
        else
            st = choose_rate(r, &r->domain[i], &lr[i], path, rates, pace);
        if (st == HN_ERR_STOPPED) { /* nothing of this domain is kept */
            r->stopped = true;
            st = HN_OK;
            break;
        }
        if (st == HN_OK && !(lr[i] > 0 && lr[i] <= 1))
            st = HN_FAIL(HN_ERR_FORMAT, "%s: %s: a learning rate of %g", path, r->domain[i].name,
                         lr[i]);
        if (st == HN_OK) st = hn_hyperflow_ask(r, 0);
    }
    json_decref(rates);
    hn_free(path);
    return st;
}
