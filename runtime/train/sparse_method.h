/* sparse_method.h - training of chosen blocks as a method of the trainers (method.h).
 *
 * The options are those of sparse_presets.h and a few besides; the model may be of any kind. What
 * is trained:
 *   blocks of the weights of the targeted layers (runtime/adapt/sparse.h), chosen by --score
 *   low-rank pairs beside them where --lora-rank is above 0 (RoSA)
 *   a new head of a classifier, whole
 *
 * Selection 0 comes before the first step. Its batches are the first ones of the training stream,
 * which training reads again from the beginning: nothing of the data is used up, and a run that is
 * stopped before its first step repeats it. Later selections gather inside training steps
 * (sparse_select.h says in which), so the order of the data never changes.
 *
 * With --lora-steps the low-rank pairs and the head are trained alone for so many steps first, by
 * the rates of the run's own first steps; the selection looks at what came out, and all of it is
 * put back to where it began.
 */
#ifndef HN_SPARSE_METHOD_H
#define HN_SPARSE_METHOD_H
#include "runtime/train/method.h"
#include "runtime/train/run_options.h"
#include "runtime/train/sparse_presets.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The config struct of the trainer. Texts are NULL in verbs without the method's options. */
typedef struct {
    hn_run_config run;
    const char *preset, *mask;
    hn_sparse_knobs knobs;
    hn_text_list exclude;
    double lora_alpha, select_memory;
    bool train_head;
} hn_sparse_config;

/* clang-format off */
#define HN_SPARSE_KNOB(f) HN_OPT(hn_sparse_config, knobs.f)
#define HN_SPARSE_METHOD_ROWS \
    {"preset",        HN_OPT(hn_sparse_config, preset),        "absd", 0, 0, NULL, "a published method as a set of the options below: absd, absd-dynamic, sift, fish, spiel-ag, smt, shira, lift, rosa, s2ft, diablo; options that are given win"}, \
    HN_SPARSE_ROWS(HN_SPARSE_KNOB), \
    {"exclude",       HN_OPT(hn_sparse_config, exclude),       "",     0, 0, NULL, "modules that are left out, by the end of their names"}, \
    {"lora-alpha",    HN_OPT(hn_sparse_config, lora_alpha),    "16",   1e-6, 1e9, NULL, "low-rank pairs are scaled by alpha / lora-rank"}, \
    {"select-memory", HN_OPT(hn_sparse_config, select_memory), "4",    0, 1e6, NULL, "with --accumulation: GiB of whole gradients for scores; matrices that do not fit take turns"}, \
    {"mask",          HN_OPT(hn_sparse_config, mask),          "",     0, 0, NULL, "delta pack whose blocks are the first ones, in place of a selection"}, \
    {"train-head",    HN_OPT(hn_sparse_config, train_head),    "off",  0, 0, NULL, "image classifiers: train the head whole, too; a new one always is"}, \
    {"lr",            HN_OPT(hn_sparse_config, run.lr),        "2e-4", 0, 1e3, NULL, "peak learning rate"}
/* clang-format on */

/* hn_method.choose: targets, the low-rank pairs, the head. */
HN_NODISCARD hn_status hn_sparse_choose(const void *config, const hn_model *m, hn_peft_config *out);
const char *hn_sparse_idle_option(const void *config, const char *option); /* hn_method.idle */
extern const hn_method_hooks hn_sparse_hooks;
extern const char *const hn_sparse_adapter_options[]; /* hn_method.adapter_options */

#ifdef __cplusplus
}
#endif
#endif
