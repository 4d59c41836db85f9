/* eval: the held-out loss of a model, by one process or by the ranks of a team, which share the
 * batches. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/save.h"
#include "runtime/file/folder.h"
#include "runtime/graph/shards.h"
#include "runtime/train/option_kinds.h"
#include "runtime/train/team.h"
#include "runtime/train/verbs.h"

/* ---- ranks that evaluate the same ---- */

/* Options that say where something is, or how it is read; what is there is compared by itself. */
static bool decides(const char *name)
{
    static const char *const free_keys[] = {"data", "eval-data", "cache-dir", "data-threads",
                                            "resident"};
    for (size_t i = 0; i < sizeof free_keys / sizeof *free_keys; i++)
        if (name != NULL && strcmp(name, free_keys[i]) == 0) return false;
    return true;
}

/* Options about the batches, as YAML. */
static hn_status same_options(const hn_session *s)
{
    hn_option_table all = {0};
    char *yaml = NULL;
    size_t n = 0;
    HN_TRY(hn_run_table(HN_GROUP_DATA | HN_GROUP_BATCH | HN_GROUP_IMAGE, NULL, 0, &all));
    for (size_t i = 0; i < all.n; i++)
        if (decides(all.row[i].name)) all.row[n++] = all.row[i];
    hn_status st = hn_options_yaml(all.row, n, s->config, &yaml);
    if (st == HN_OK) st = hn_team_same(&s->team, "options", yaml);
    hn_free(yaml);
    hn_free(all.row);
    return st;
}

/* Digests of an adapter's files, whichever kind it is of, in one text. */
static hn_status adapter_digests(const char *dir, char **out)
{
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors",
                                        "delta.safetensors", "buffers.safetensors"};
    char *all = hn_strdup("");
    hn_status st = HN_OK;
    for (size_t i = 0; st == HN_OK && all && dir[0] && i < sizeof names / sizeof *names; i++) {
        char hex[HN_SHA256_HEX], *path = hn_asprintf("%s/%s", dir, names[i]), *longer = NULL;
        uint64_t bytes;
        if (path != NULL && hn_is_file(path)) {
            st = hn_sha256_file(path, &bytes, hex);
            if (st == HN_OK) longer = hn_asprintf("%s%s %s\n", all, names[i], hex);
            hn_free(all);
            all = longer;
        }
        hn_free(path);
    }
    HN_TRY(st);
    *out = all;
    return all ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory to compare ranks");
}

/* Ranks that read other files, or were told other things, would evaluate nobody's model. */
static hn_status compare_ranks(hn_session *s)
{
    const hn_team *t = &s->team;
    const char *model;
    char gathers[32], *adapter = NULL;
    if (hn_team_alone(t)) return HN_OK;
    snprintf(gathers, sizeof gathers, "%" PRIx64,
             hn_program_gathers_digest(hn_engine_program(s->engine)));
    HN_TRY(hn_team_same(t, "order of gathered layers", gathers));
    HN_TRY(same_options(s));
    HN_TRY(hn_team_same(t, "--dtype", hn_dtype_name(s->model.dtype)));
    HN_TRY(hn_team_same(t, "data", hn_session_held_out_digest(s)));
    HN_TRY(hn_team_same(t, "tokenizer", hn_session_tokenizer_digest(s)));
    HN_TRY(hn_model_digest(&s->model, (uint64_t)s->run->seed, &model));
    HN_TRY(hn_team_same(t, "model", model));
    HN_TRY(adapter_digests(s->run->adapter, &adapter));
    const hn_status st = hn_team_same(t, "adapter", adapter);
    hn_free(adapter);
    return st;
}

/* ---- the verb ---- */

static hn_status open_data(void *s) { return hn_session_data(s, true); }

/* Everything up to the first batch. Where the base is not shared nothing is added up on devices. */
static hn_status open_all(hn_session *s)
{
    HN_TRY(hn_check_eval_options(s));
    HN_TRY(hn_team_join(&s->team));
    HN_TRY(hn_team_same(&s->team, "--shard-base", s->run->shard_base ? "on" : "off"));
    HN_TRY(hn_session_machine(s, false));
    HN_TRY(s->run->shard_base ? hn_team_devices(&s->team, s->device)
                              : hn_team_places(&s->team, s->device));
    HN_TRY(hn_session_model(s, false));
    hn_team_at(&s->team, HN_HUB_AT_LOAD, -1);
    HN_TRY(hn_team_in_turn(&s->team, open_data, s));
    HN_TRY(hn_session_plan(s, false, false));
    HN_TRY(compare_ranks(s));
    return hn_session_load(s);
}

static void print_sums(FILE *to, const hn_session *s, const hn_eval_sums *sums, double loss)
{
    if (hn_session_has_images(s))
        fprintf(to, "loss %.6f  accuracy %.2f %%  images %" PRId64 "  %s\n", loss,
                100 * (double)sums->hits / (double)sums->rows, sums->rows,
                hn_image_set_name(s->images.eval));
    else
        fprintf(to, "loss %.6f  perplexity %.4f  tokens %" PRId64 "  %s\n", loss, exp(loss),
                sums->rows, hn_dataset_name(s->text.eval_data));
}

hn_status hn_verb_eval(hn_session *s, FILE *to)
{
    hn_eval_sums sums;
    HN_TRY(open_all(s));
    HN_TRY(hn_session_evaluate(s, &sums));
    hn_team_at(&s->team, HN_HUB_AT_END, -1);
    const double loss = sums.rows > 0 ? sums.loss / (double)sums.rows : NAN;
    if (!isfinite(loss) && !hn_team_leads(&s->team)) HN_TRY(hn_team_wait(&s->team)); /* rank 0 */
    if (!isfinite(loss))
        return HN_FAIL(HN_ERR_NUMERIC, "the held-out loss is %g over %" PRId64 " %s", loss,
                       sums.rows, hn_session_unit(s));
    if (hn_team_leads(&s->team)) print_sums(to, s, &sums, loss);
    return HN_OK;
}
