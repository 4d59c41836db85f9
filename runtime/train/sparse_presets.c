#include "runtime/train/sparse_presets.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define KNOB(f) HN_OPT(hn_sparse_knobs, f)

static const hn_option rows[] = {HN_SPARSE_ROWS(KNOB)};

const hn_option *hn_sparse_rows(int64_t *n)
{
    *n = (int64_t)(sizeof rows / sizeof *rows);
    return rows;
}

/* ---- the table ---- */

/* clang-format off */
#define SIFT    "Song et al., SIFT, ICML 2024; song-wx/SIFT; spec/sparse.md 1, 6.7"
#define FISH    "Sung et al., FISH mask, NeurIPS 2021; spec/sparse.md 1, 6.7"
#define SPIEL   "Ansell et al., SpIEL-AG, arXiv 2401.16405; ducdauge/sft-llm; spec/sparse.md 3.1"
#define SMT     "He et al., SMT, ICLR 2025; HectorHHZ/Sparse_Matrix_Tuning; spec/sparse.md 3.3"
#define SHIRA   "Bhardwaj et al., SHiRA, NeurIPS 2024; peft/tuners/shira; spec/sparse.md 4.6, 6.7"
#define LIFT    "Liu et al., LIFT, arXiv 2506.00772; zihanghliu/LIFT; spec/sparse.md 3.4"
#define ROSA    "Nikdan et al., RoSA, ICML 2024; IST-DASLab/peft-rosa; spec/sparse.md 3.5, 4.4"
#define S2FT    "Yang et al., S2FT, NeurIPS 2024; Infini-AI-Lab/S2FT; spec/sparse.md 3.6, 6.7"
#define DIABLO  "DiaBlo, arXiv 2506.03230; spec/sparse.md 1, 6.7"
#define ABSD    "spec/sparse.md 6.3, 6.4"

static const hn_preset_value dynamic[] = {{"static", "off", ABSD}};
static const hn_preset_value sift[] = {
    {"block", "1x1", SIFT}, {"budget", "5%", SIFT}, {"scope", "matrix", SIFT},
    {"score", "abs", SIFT}, {"select-batches", "1", SIFT}};
static const hn_preset_value fish[] = {
    {"block", "1x1", FISH}, {"budget", "0.5%", FISH}, {"scope", "global", FISH},
    {"score", "fisher", FISH}, {"select-samples", "1024", FISH}};
static const hn_preset_value spiel[] = {
    {"block", "1x1", SPIEL}, {"scope", "matrix", SPIEL}, {"static", "off", SPIEL},
    {"start", "random", SPIEL}, {"select-every", "20", SPIEL}, {"select-at", "5", SPIEL},
    {"select-window", "5", SPIEL}, {"score-share", "0.2", SPIEL}, {"candidates", "1", SPIEL},
    {"select-until", "1", SPIEL}, {"replace", "0.2", SPIEL}, {"replace-first", "1", SPIEL},
    {"replace-decay", "linear", SPIEL}, {"hysteresis", "0", SPIEL}, {"protect", "off", SPIEL}};
static const hn_preset_value smt[] = {
    {"block", "largest", SMT}, {"budget", "0.86%", SMT}, {"scope", "global", SMT},
    {"select-batches", "100", SMT}, {"candidates", "0", SMT}, {"beta2", "0.95", SMT}, {"lr", "1e-4", SMT}};
static const hn_preset_value shira[] = {
    {"block", "1x1", SHIRA}, {"budget", "lora:32", SHIRA}, {"share", "lora", SHIRA},
    {"scope", "matrix", SHIRA}, {"score", "random", SHIRA}, {"lr", "3e-4", SHIRA}};
static const hn_preset_value lift[] = {
    {"block", "1x1", LIFT}, {"budget", "lora:128", LIFT}, {"share", "lora", LIFT},
    {"scope", "matrix", LIFT}, {"score", "lift", LIFT}, {"static", "off", LIFT},
    {"select-every", "400", LIFT}, {"select-until", "1", LIFT}, {"replace", "1", LIFT},
    {"replace-decay", "constant", LIFT}, {"on-drop", "keep", LIFT}, {"hysteresis", "0", LIFT},
    {"protect", "off", LIFT}, {"seed-moments", "off", LIFT}, {"lr", "1e-4", LIFT}};
static const hn_preset_value rosa[] = {
    {"block", "1x1", ROSA}, {"budget", "0.6%", ROSA}, {"scope", "matrix", ROSA},
    {"score", "fisher", ROSA}, {"select-batches", "1", ROSA}, {"lora-rank", "16", ROSA},
    {"lora-steps", "64", ROSA}, {"lr", "2e-4", ROSA}};
static const hn_preset_value s2ft[] = {
    {"block", "coupled", S2FT}, {"budget", "3%", S2FT}, {"scope", "matrix", S2FT},
    {"score", "coupled", S2FT}, {"targets", "up_proj,gate_proj,down_proj", S2FT}, {"lr", "2e-4", S2FT}};
static const hn_preset_value diablo[] = {
    {"budget", "0.015625", DIABLO}, {"scope", "matrix", DIABLO}, {"score", "diagonal", DIABLO}};

#define VALUES(a) a, (int64_t)(sizeof(a) / sizeof *(a))
static const hn_sparse_preset presets[] = {
    {"absd", "gradients of 32 batches choose blocks once, before training", NULL, NULL, 0},
    {"absd-dynamic", "the same, and a falling part of the blocks is replaced while training", NULL, VALUES(dynamic)},
    {"sift", "elements with the largest gradient of the first batch", NULL, VALUES(sift)},
    {"fish", "elements with the largest squared gradients of 1024 samples", "squares are of whole batches, not of single samples: batch-size 1 gives those", VALUES(fish)},
    {"spiel-ag", "elements at random, replaced by those with large gradients every 20 steps", "candidates and sums are of whole batches; sums are not divided by the accumulation twice", VALUES(spiel)},
    {"smt", "256x256 blocks, or the largest that divide all matrices, with the largest summed gradients", "the 100 batches in front of training change nothing: there they are steps of full fine-tuning", VALUES(smt)},
    {"shira", "elements at random", NULL, VALUES(shira)},
    {"lift", "elements that are large in the rank-r part of the weights, anew every 400 steps", "r of the score is that of the budget; their best is near it, smaller in large models", VALUES(lift)},
    {"rosa", "low-rank pairs and the elements with the largest squared gradient of a batch", "pairs and elements have one learning rate (there 7e-4 and 2e-4)", VALUES(rosa)},
    {"s2ft", "channels of the feed-forward layers at random, in all three matrices", "rows of up and gate are trained, too, not only columns of down", VALUES(s2ft)},
    {"diablo", "blocks on the diagonal, 64 parts", NULL, VALUES(diablo)},
};
/* clang-format on */

int64_t hn_sparse_preset_count(void) { return (int64_t)(sizeof presets / sizeof *presets); }

const hn_sparse_preset *hn_sparse_preset_at(int64_t i)
{
    return i >= 0 && i < hn_sparse_preset_count() ? &presets[i] : NULL;
}

hn_status hn_sparse_preset_find(const char *name, const hn_sparse_preset **out)
{
    char names[256] = "";
    size_t at = 0;
    for (int64_t i = 0; i < hn_sparse_preset_count(); i++) {
        if (strcmp(presets[i].name, name) == 0) {
            *out = &presets[i];
            return HN_OK;
        }
        const size_t n = strlen(presets[i].name);
        if (at + n + 2 >= sizeof names) continue;
        if (at > 0) names[at++] = '|';
        memcpy(names + at, presets[i].name, n + 1);
        at += n;
    }
    return HN_FAIL(HN_ERR_ARG, "--preset '%.60s': accepted are %s", name, names);
}

const hn_preset_value *hn_sparse_preset_value(const hn_sparse_preset *p, const char *option)
{
    for (int64_t i = 0; i < p->n; i++)
        if (strcmp(p->value[i].option, option) == 0) return &p->value[i];
    return NULL;
}

/* A value of our own table, which the tests parse as a user's: it is well-formed. */
static void set_field(const hn_option *row, const char *value, void *config)
{
    void *field = (char *)config + row->offset;
    switch (row->kind) {
    case HN_OPT_TEXT: *(const char **)field = value; break;
    case HN_OPT_INT: *(int64_t *)field = strtoll(value, NULL, 10); break;
    case HN_OPT_REAL: *(double *)field = strtod(value, NULL); break;
    case HN_OPT_FLAG: *(bool *)field = strcmp(value, "on") == 0; break;
    case HN_OPT_LIST: ((hn_text_list *)field)->joined = value; break;
    case HN_OPT_HEADING: break;
    }
}

hn_status hn_sparse_preset_apply(const char *name, const hn_option *table, size_t n,
                                 const hn_options_store *given, void *config)
{
    const hn_sparse_preset *p = NULL;
    HN_TRY(hn_sparse_preset_find(name, &p));
    for (int64_t i = 0; i < p->n; i++) {
        const hn_option *row = NULL;
        for (size_t k = 0; k < n; k++)
            if (table[k].name != NULL && strcmp(table[k].name, p->value[i].option) == 0)
                row = &table[k];
        if (row == NULL)
            return HN_FAIL(HN_ERR_ARG, "--preset %s sets --%s, which is no option here", name,
                           p->value[i].option);
        if (given == NULL || !hn_options_given(given, row->name))
            set_field(row, p->value[i].value, config);
    }
    return HN_OK;
}

/* ---- what they mean ---- */

static int index_of(const char *const *names, int n, const char *name)
{
    int i = 0; /* choices of the table leave no other name */
    while (i < n - 1 && strcmp(names[i], name) != 0) i++;
    return i;
}

static hn_score_rule score_of(const char *name)
{
    static const char *const names[] = {"gradient",  "fisher", "abs",      "snip",   "random",
                                        "magnitude", "lift",   "diagonal", "coupled"};
    return (hn_score_rule)index_of(names, 9, name);
}

static double score_share(const hn_sparse_knobs *k, hn_score_rule score)
{
    if (score == HN_BY_FISHER || score == HN_BY_ABS) return 1; /* no sums of gradients */
    if (score == HN_BY_SNIP || k->candidates == 0) return 0;   /* sums of all */
    return k->score_share;
}

static hn_select_schedule schedule_of(const hn_sparse_knobs *k, int64_t steps, int64_t samples,
                                      const hn_sparse_rules *r)
{
    static const char *const decays[] = {"cosine", "linear", "constant"};
    const int64_t batches = k->samples > 0 ? (k->samples + samples - 1) / samples : k->batches;
    return (hn_select_schedule){.steps = steps,
                                .fixed = k->fixed,
                                .first = hn_score_has_gradient(r->first) ? batches : 0,
                                .every = k->every,
                                .start = k->first_at,
                                .window = hn_score_has_gradient(r->score) ? k->window : 0,
                                .score_share = score_share(k, r->score),
                                .until = k->until,
                                .rate = k->replace,
                                .first_rate = k->replace_first,
                                .decay = (hn_rate_decay)index_of(decays, 3, k->decay)};
}

static hn_status check_knobs(const hn_sparse_knobs *k, const hn_sparse_rules *r)
{
    const bool constant =
        r->score >= HN_BY_RANDOM && r->score != HN_BY_LIFT && r->score != HN_BY_MAGNITUDE;
    if (!k->fixed && constant)
        return HN_FAIL(HN_ERR_ARG, "--score %s never changes: reselections need --static on",
                       k->score);
    if ((strcmp(k->block, "coupled") == 0) != (r->score == HN_BY_COUPLED))
        return HN_FAIL(HN_ERR_ARG, "--block coupled and --score coupled go together");
    if (r->score == HN_BY_COUPLED && strcmp(k->scope, "matrix") != 0)
        return HN_FAIL(HN_ERR_ARG, "--block coupled: needs --scope matrix");
    if (!k->fixed && strcmp(k->drop, "sensitivity") == 0 &&
        (!hn_score_has_gradient(r->score) || score_share(k, r->score) == 1))
        return HN_FAIL(HN_ERR_ARG, "--drop sensitivity: --score %s sums no gradients", k->score);
    if (k->lora_steps > 0 && k->lora_rank == 0)
        return HN_FAIL(HN_ERR_ARG, "--lora-steps: needs --lora-rank");
    return HN_OK;
}

static bool is_in(const char *const *list, const char *name)
{
    for (; *list != NULL; list++)
        if (strcmp(*list, name) == 0) return true;
    return false;
}

const char *hn_sparse_idle(const hn_sparse_knobs *k, const char *option)
{
    static const char *const of_reselections[] = {"select-every", "select-at",    "select-until",
                                                  "on-drop",      "seed-moments", NULL};
    static const char *const of_changes[] = {"select-window", "replace", "replace-first",
                                             "replace-decay", "drop",    "hysteresis",
                                             "protect",       NULL};
    const hn_score_rule score = score_of(k->score);
    const bool changes = is_in(of_changes, option);
    if (k->fixed && (changes || is_in(of_reselections, option)))
        return "blocks are chosen once (--static on)";
    if (changes && !hn_score_has_gradient(score))
        return "a --score of the weights chooses all blocks anew";
    if (strcmp(option, "seed-moments") == 0 &&
        (!hn_score_has_gradient(score) || score_share(k, score) == 1))
        return "this --score sums no gradients";
    return NULL;
}

hn_status hn_sparse_rules_of(const hn_sparse_knobs *k, int64_t steps, int64_t samples,
                             hn_sparse_rules *out)
{
    hn_sparse_rules r = {.score = score_of(k->score), .lift_rank = k->lift_rank};
    const bool each = strcmp(k->scope, "matrix") == 0, all = strcmp(k->scope, "global") == 0;
    if (samples < 1) return HN_FAIL(HN_ERR_ARG, "a batch of %" PRId64 " samples", samples);
    r.first = strcmp(k->start, "random") == 0 ? HN_BY_RANDOM : r.score;
    r.refill = !hn_score_has_gradient(r.score);
    HN_TRY(check_knobs(k, &r));
    HN_TRY(hn_budget_parse(k->budget, &r.budget.budget));
    r.budget.share = strcmp(k->share, "lora") == 0 ? HN_SHARE_LORA : HN_SHARE_SIZE;
    r.budget.each = each;
    r.budget.floor = all ? 0 : k->share_floor;
    r.budget.ceiling = all ? 0 : k->share_ceiling;
    if (r.score == HN_BY_LIFT || k->lift_gamma > 0) {
        if (r.lift_rank == 0 && r.budget.budget.kind == HN_BUDGET_LORA)
            r.lift_rank = (int64_t)r.budget.budget.amount;
        if (r.lift_rank == 0)
            return HN_FAIL(HN_ERR_ARG, "--lift-rank: needed with --budget %.60s", k->budget);
    }
    r.schedule = schedule_of(k, steps, samples, &r);
    HN_TRY(hn_select_schedule_check(&r.schedule));
    r.change = (hn_change_rule){.each = each,
                                .hysteresis = k->hysteresis,
                                .protect = k->protect ? hn_select_interval(&r.schedule) : 0};
    *out = r;
    return HN_OK;
}

hn_status hn_sparse_block_of(const char *block, int64_t parameters, const char *name, int64_t out,
                             int64_t in, bool columns, hn_block_shape *shape)
{
    hn_block_shape s;
    const bool coupled = strcmp(block, "coupled") == 0;
    if (strcmp(block, "row") == 0 || (coupled && !columns))
        s = (hn_block_shape){1, in};
    else if (strcmp(block, "column") == 0 || coupled)
        s = (hn_block_shape){out, 1};
    else if (strcmp(block, "auto") == 0)
        s.br = s.bc = parameters < 1000000000 ? 16 : 32;
    else
        s.br = s.bc = strtoll(block, NULL, 10); /* 16x16 */
    HN_TRY(hn_block_shape_check(name, s, out, in));
    *shape = s;
    return HN_OK;
}
