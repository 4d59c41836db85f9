/* hone-lora: low-rank adaptation of the linear layers (LoRA, rsLoRA, DoRA). */
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/train/cli.h"
#include "runtime/train/lora_hook.h"
#include "runtime/train/run_options.h"

typedef struct {
    hn_run_config run;
    int64_t rank;
    double alpha, dropout;
    hn_text_list targets, exclude;
    const char *targets_regex;
    bool rslora, dora, train_head;
} lora_config;

#define FIELD(f) HN_OPT(lora_config, f)

/* clang-format off */
static const hn_option options[] = {
    HN_OPT_TITLE("LoRA"),
    {"rank",     FIELD(rank),     "16",   1, 65536, NULL, "rank r of the update B A"},
    {"alpha",    FIELD(alpha),    "32",   1e-6, 1e9, NULL, "the update is scaled by alpha / r"},
    {"rslora",   FIELD(rslora),   "off",  0, 0, NULL, "scale by alpha / sqrt(r) instead"},
    {"dora",     FIELD(dora),     "off",  0, 0, NULL, "train magnitudes besides (DoRA): m / ||W + s B A|| (W x + s B A x), for each output of a linear layer; not of convolutions"},
    {"dropout",  FIELD(dropout),  "0",    0, 0.99, NULL, "of the input of A"},
    {"targets",  FIELD(targets),  "all-linear", 0, 0, NULL, "modules by the end of their names (q_proj,v_proj), or all-linear: every linear layer and convolution but the head and the stem or patch embedding"},
    {"targets-regex", FIELD(targets_regex), "", 0, 0, NULL, "instead of targets: one expression for the whole name, model\\.layers\\.[0-3]\\..*_proj"},
    {"exclude",  FIELD(exclude),  "",     0, 0, NULL, "modules that are left out, by the end of their names"},
    {"train-head", FIELD(train_head), "off", 0, 0, NULL, "image classifiers: train the head whole, too; a new one always is"},
    {"lr",       FIELD(run.lr),   "2e-4", 0, 1e3, NULL, "peak learning rate"},
};
/* clang-format on */

static hn_status add_names(hn_text_list from, hn_names *to)
{
    char name[256];
    for (int64_t i = 0;; i++) {
        const int64_t n = hn_text_list_item(from, i, name, sizeof name);
        if (n < 0) return HN_OK;
        if (n >= (int64_t)sizeof name)
            return HN_FAIL(HN_ERR_ARG, "module name of %lld bytes, at most %zu", (long long)n,
                           sizeof name - 1);
        HN_TRY(hn_names_add(to, name));
    }
}

static hn_status choose(const void *config, const hn_model *m, hn_peft_config *out)
{
    const lora_config *c = config;
    const bool all = strcmp(c->targets.joined, "all-linear") == 0;
    out->r = c->rank;
    out->alpha = c->alpha;
    out->dropout = c->dropout;
    out->rslora = c->rslora;
    out->dora = c->dora;
    if (c->targets_regex[0] != '\0' && !all)
        return HN_FAIL(HN_ERR_ARG, "--targets and --targets-regex exclude each other");
    if (c->targets_regex[0] != '\0') {
        out->targets.regex = hn_strdup(c->targets_regex);
        if (out->targets.regex == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the options");
    } else {
        HN_TRY(all ? hn_lora_every_layer(m, &out->targets.list)
                   : add_names(c->targets, &out->targets.list));
    }
    /* PEFT wants to know of layers whose weights are [in, out] in files */
    out->fan_in_fan_out = m->kind == HN_MODEL_DECODER && m->decoder.family == HN_DECODER_GPT2 &&
                          !m->decoder.gpt2.mingpt;
    HN_TRY(add_names(c->exclude, &out->exclude.list));
    return c->train_head ? hn_lora_save_head(m, "--targets", out) : HN_OK;
}

/* An adapter that is loaded brings its own shape. */
static const char *const adapter_options[] = {
    "rank",          "alpha",   "rslora",     "dora",     "dropout", "targets",
    "targets-regex", "exclude", "train-head", "new-head", NULL};

int main(int argc, char **argv)
{
    const hn_method method = {
        .name = "lora",
        .program = "hone-lora",
        .summary = "fine-tune a decoder or an image classifier with low-rank adapters",
        .options = options,
        .n_options = sizeof options / sizeof *options,
        .config_size = sizeof(lora_config),
        .adapter = true,
        .choose = choose,
        .adapter_options = adapter_options};
    return hn_trainer_main(&method, argc, argv);
}
