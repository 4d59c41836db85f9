/* sparse_presets.h - the options of sparse fine-tuning, and sets of them under a name.
 *
 * The options are those of our method (spec/sparse.md section 6, there called ABSD); a published
 * method is a set of values for them (6.7), each with its source. Nothing else belongs to a preset:
 * what a method does beyond these options is said in `differs`.
 *
 * Use, in a trainer whose config has a member `hn_sparse_knobs sparse` and a text `preset`:
 *   #define SPARSE(f) HN_OPT(my_config, sparse.f)
 *   static const hn_option options[] = {HN_SPARSE_ROWS(SPARSE), ...};
 *   after hn_options_parse: hn_sparse_preset_apply(c->preset, options, n, given, c);
 *   hn_sparse_rules_of(&c->sparse, steps, batch, &rules);       what sparse_select.h wants
 * An option that the user has given, in the config file or on the command line, wins over the
 * preset.
 */
#ifndef HN_SPARSE_PRESETS_H
#define HN_SPARSE_PRESETS_H
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/options.h"
#include "runtime/base/status.h"
#include "runtime/train/sparse_select.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *block, *budget, *share, *scope, *type_weights, *score, *start, *decay, *drop,
        *on_drop;
    hn_text_list targets;
    double share_floor, share_ceiling, lift_gamma, score_share, until, replace, replace_first,
        hysteresis;
    int64_t lift_rank, batches, samples, candidates, every, first_at, window, lora_rank, lora_steps;
    bool fixed, lift_exact, protect, seed_moments;
} hn_sparse_knobs;

/* clang-format off */
#define HN_SPARSE_ROWS(F) \
    {"block",          F(block),         "auto",       0, 0, "auto|largest|1x1|4x4|16x16|32x32|64x64|128x128|256x256|row|column|coupled", "shape of the blocks that are trained; auto: 32x32, 16x16 below 1e9 parameters; largest: 256x256; where these do not divide all matrices, the next smaller square; coupled: rows of what a hidden layer is made by, columns of what reads it; in attention whole heads"}, \
    {"budget",         F(budget),        "lora:16",    0, 0, NULL, "trained values: a share as 0.01 or 1%, lora:RANK, values:COUNT or blocks:COUNT"}, \
    {"share",          F(share),         "size",       0, 0, "size|lora", "a matrix's part of the budget: by its values, or by its rows + columns"}, \
    {"scope",          F(scope),         "bounded",    0, 0, "bounded|global|matrix", "where blocks compete: everywhere within share-floor and share-ceiling; everywhere; in their matrix, which has exactly its share"}, \
    {"share-floor",    F(share_floor),   "0.25",       0, 1, NULL, "scope bounded: a matrix has at least this part of its share"}, \
    {"share-ceiling",  F(share_ceiling), "4",          1, 1e6, NULL, "scope bounded: and at most so many times its share"}, \
    {"targets",        F(targets),       "all-linear", 0, 0, NULL, "modules by the end of their names, or all-linear"}, \
    {"type-weights",   F(type_weights),  "uniform",    0, 0, "uniform|vodu", "scores are weighted; vodu: queries and keys by 0.25"}, \
    {"score",          F(score),         "gradient",   0, 0, "gradient|fisher|abs|snip|random|magnitude|lift|diagonal|coupled", "of a block: |sum of gradients|; its squares; |gradient| of each batch; |weight gradient|; at random; |weight|; |rank-r weight|; the diagonal; channels and heads that belong together"}, \
    {"lift-gamma",     F(lift_gamma),    "0",          0, 10, NULL, "scores are multiplied by |rank-r weight| to this power"}, \
    {"lift-rank",      F(lift_rank),     "0",          0, 65536, NULL, "r of |rank-r weight|; 0: that of a budget lora:r"}, \
    {"lift-exact",     F(lift_exact),    "off",        0, 0, NULL, "by the whole decomposition instead of a random sketch"}, \
    {"static",         F(fixed),         "on",         0, 0, NULL, "blocks are chosen once, before training"}, \
    {"start",          F(start),         "score",      0, 0, "score|random", "the first blocks: by score, or at random"}, \
    {"select-batches", F(batches),       "32",         1, 1e6, NULL, "whole batches whose gradients choose the first blocks"}, \
    {"select-samples", F(samples),       "0",          0, 1e9, NULL, "instead: so many samples; 0: select-batches"}, \
    {"score-share",    F(score_share),   "0.5",        0, 1, NULL, "score gradient: part of the batches that choose the candidates"}, \
    {"candidates",     F(candidates),    "2",          0, 1000, NULL, "score gradient: times the budget whose gradients are summed exactly; 0: all blocks"}, \
    {"select-every",   F(every),         "0",          0, 1e9, NULL, "steps between reselections; 0: a tenth of the run, at least 100"}, \
    {"select-at",      F(first_at),      "0",          0, 1e9, NULL, "step of the first reselection; 0: select-every"}, \
    {"select-window",  F(window),        "8",          1, 1e6, NULL, "steps whose gradients decide a reselection"}, \
    {"select-until",   F(until),         "0.7",        0, 1, NULL, "no reselection behind this part of the run"}, \
    {"replace",        F(replace),       "0.2",        0, 1, NULL, "part of the blocks that a reselection may replace, at first"}, \
    {"replace-first",  F(replace_first), "0",          0, 1, NULL, "of the first reselection; 0: replace"}, \
    {"replace-decay",  F(decay),         "cosine",     0, 0, "cosine|linear|constant", "how that part falls until select-until"}, \
    {"drop",           F(drop),          "change",     0, 0, "change|sensitivity", "who goes first: the least changed; the least |change gradient|"}, \
    {"on-drop",        F(on_drop),       "revert",     0, 0, "revert|keep", "a block that goes: gets its old values back; keeps its change"}, \
    {"hysteresis",     F(hysteresis),    "1.2",        0, 1e6, NULL, "a newcomer's score is above so many times the old one's; 0: always replaced"}, \
    {"protect",        F(protect),       "on",         0, 0, NULL, "blocks younger than select-every stay"}, \
    {"seed-moments",   F(seed_moments),  "on",         0, 0, NULL, "moments of blocks that a later selection adds begin with its window's gradients; those of the first begin at 0"}, \
    {"lora-rank",      F(lora_rank),     "0",          0, 65536, NULL, "a low-rank pair of this rank beside the blocks of each matrix; 0: none"}, \
    {"lora-steps",     F(lora_steps),    "0",          0, 1e9, NULL, "steps of the low-rank pairs alone before the first selection; the run then starts anew"}
/* clang-format on */

/* The rows alone, of an hn_sparse_knobs. */
const hn_option *hn_sparse_rows(int64_t *n);

typedef struct {
    const char *option; /* a row above, or an option of every run: lr, beta2 */
    const char *value, *source;
} hn_preset_value;

typedef struct {
    const char *name, *summary;
    const char *differs; /* what of the published method is another; NULL: nothing known */
    const hn_preset_value *value;
    int64_t n;
} hn_sparse_preset;

int64_t hn_sparse_preset_count(void);
const hn_sparse_preset *hn_sparse_preset_at(int64_t i);
/* Errors: HN_ERR_ARG with the names there are */
HN_NODISCARD hn_status hn_sparse_preset_find(const char *name, const hn_sparse_preset **out);
/* The value of an option; NULL: the preset leaves it at its default. */
const hn_preset_value *hn_sparse_preset_value(const hn_sparse_preset *p, const char *option);

/* Writes the preset's values into the fields of `config` that `table` names and the user has not
 * given (given NULL: into all). Texts live for ever. Errors: HN_ERR_ARG as hn_sparse_preset_find,
 * or where the table lacks an option of the preset */
HN_NODISCARD hn_status hn_sparse_preset_apply(const char *name, const hn_option *table, size_t n,
                                              const hn_options_store *given, void *config);

typedef enum {
    HN_BY_GRADIENT,
    HN_BY_FISHER,
    HN_BY_ABS,
    HN_BY_SNIP,
    HN_BY_RANDOM,
    HN_BY_MAGNITUDE,
    HN_BY_LIFT,
    HN_BY_DIAGONAL,
    HN_BY_COUPLED
} hn_score_rule;

/* Needs gradients, from a step's backward. */
static inline bool hn_score_has_gradient(hn_score_rule k) { return k <= HN_BY_SNIP; }

typedef struct {
    hn_score_rule score, first; /* first: of selection 0 */
    hn_budget_rule budget;
    hn_select_schedule schedule;
    hn_change_rule change; /* rate comes from hn_select_at */
    int64_t lift_rank;     /* 0: not read */
    bool refill; /* a reselection is hn_select_fill over all blocks, not hn_select_change: scores
                  * of the weights alone */
} hn_sparse_rules;

/* steps: T. samples: in a whole batch.
 * Errors  HN_ERR_ARG naming the option: a budget that is none, a schedule that is none, a
 *         reselection by scores that never change (random start excepted), lift-rank missing */
HN_NODISCARD hn_status hn_sparse_rules_of(const hn_sparse_knobs *k, int64_t steps, int64_t samples,
                                          hn_sparse_rules *out);

/* Why an option has no effect beside the others: one of reselections in a run that makes none, or
 * that its --score leaves no use for; NULL: it has one. */
const char *hn_sparse_idle(const hn_sparse_knobs *k, const char *option);

/* The block of a matrix by the option `block`. parameters: of the model. columns: for coupled,
 * whether the matrix reads the hidden layer. Errors: HN_ERR_SHAPE naming the matrix */
HN_NODISCARD hn_status hn_sparse_block_of(const char *block, int64_t parameters, const char *name,
                                          int64_t out, int64_t in, bool columns,
                                          hn_block_shape *shape);

#ifdef __cplusplus
}
#endif
#endif
