#include "runtime/train/run_options.h"

#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/images.h"

#define FIELD(f) HN_OPT(hn_run_config, f)

/* clang-format off */
static const hn_option model_rows[] = {
    HN_OPT_TITLE("Model"),
    {"model",         FIELD(model),         NULL,   0, 0, NULL, "folder of a Hugging Face or timm model; a config.json or the name of an architecture to start from random weights"},
    {"weights",       FIELD(weights),       "",     0, 0, NULL, "safetensors file for a config.json or the name of an architecture; default: random weights"},
    {"adapter",       FIELD(adapter),       "",     0, 0, NULL, "folder of a PEFT adapter to load on the model; train continues from it"},
    {"tokenizer",     FIELD(tokenizer),     "",     0, 0, NULL, "tokenizer file or folder; default: the model's folder"},
    {"dtype",         FIELD(dtype),         "auto", 0, 0, "auto|f32|bf16", "compute type; auto: bf16 for bf16 files, f32 for f32 and f16 files"},
};

static const hn_option data_rows[] = {
    HN_OPT_TITLE("Data"),
    {"data",            FIELD(data),            NULL,   0, 0, NULL, "text, jsonl or json files (also .gz), comma separated, or a folder with train.* and valid.*; of classifiers: idx or CIFAR files, or a folder for each class"},
    {"eval-data",       FIELD(eval_data),       "",     0, 0, NULL, "held-out file; default: valid.* of the folder, or none; of classifiers, also the word of another part of the folder, test; default: its val*, or test*"},
    {"eval-split",      FIELD(eval_split),      "0",    0, 0.9, NULL, "share at the end of the data that is held out"},
    {"format",          FIELD(format),          "auto", 0, 0, "auto|text|prompt-completion|alpaca|tokens", "what a row holds; auto: decided by the keys of the first 100 rows, and printed"},
    {"text-key",        FIELD(text_key),        "",     0, 0, NULL, "key of the text in rows of format text"},
    {"prompt-key",      FIELD(prompt_key),      "",     0, 0, NULL, "key of the prompt in rows of format prompt-completion"},
    {"completion-key",  FIELD(completion_key),  "",     0, 0, NULL, "key of the completion in rows of format prompt-completion"},
    {"train-on-prompt", FIELD(train_on_prompt), "off",  0, 0, NULL, "loss on the prompt's tokens, too"},
    {"cache-dir",       FIELD(cache_dir),       "auto", 0, 0, NULL, "folder of the token cache; auto: $XDG_CACHE_HOME/hone or ~/.cache/hone; off: memory only"},
    {"data-threads",    FIELD(data_threads),    "0",    0, 256, NULL, "threads that tokenise; 0: one a core"},
    {"data-kind",       FIELD(data_kind),       "auto", 0, 0, HN_IMAGE_KINDS, "images: what the files are; auto: by their names and contents"},
    {"coarse",          FIELD(coarse),          "off",  0, 0, NULL, "images: the 20 coarse classes of CIFAR-100"},
    {"resident",        FIELD(resident),        "8",    0, 1e6, NULL, "images: GiB of the device's memory that the pixels of a set may take; a larger set's come with every batch"},
};

static const hn_option image_rows[] = {
    HN_OPT_TITLE("Images"),
    {"image-size",      FIELD(image_size),      "0",    0, 16384, NULL, "side of the square that all images become; 0: the model's"},
    {"channels",        FIELD(channels),        "0",    0, 3, NULL, "of the images, 1 or 3; 0: the model's"},
};

static const hn_option classes_rows[] = {
    {"classes",         FIELD(classes),         "0",    0, 1048576, NULL, "that the data will have; 0: the model's"},
};

static const hn_option image_train_rows[] = {
    {"new-head",        FIELD(new_head),        "auto", 0, 0, "auto|on|off", "a head from the seed in place of that in the files; auto: if they have another number of classes than the data, and says so"},
    {"augment",         FIELD(augment),         "auto", 0, 0, "auto|none|crop-flip|resized-crop-flip", "of training images; auto: none of grey ones, crop-flip up to 64 pixels, resized-crop-flip above"},
    {"pad",             FIELD(pad),             "4",    0, 1024, NULL, "black pixels around the image that crop-flip cuts from"},
    {"mean-std",        FIELD(mean_std),        "model", 0, 0, "model|data", "what pixels are normalised by: the model's values, or those of the training images, which go into the result"},
    {"label-smoothing", FIELD(label_smoothing), "0",    0, 0.999, NULL, "share of a label that is spread over all classes, in training"},
    {"frozen-norm",     FIELD(frozen_norm),     "auto", 0, 0, "auto|on|off", "batch norm by its running statistics, which stay; auto: on for adapters, off for full training"},
};

static const hn_option batch_rows[] = {
    {"seq-len",         FIELD(seq_len),         "0",    0, 1048576, NULL, "tokens of a row; 0: the model's maximum, at most 1024"},
    {"batch-size",      FIELD(batch_size),      "8",    1, 65536, NULL, "rows (texts, images) of a micro-batch"},
    {"packing",         FIELD(packing),         "on",   0, 0, NULL, "several samples a row, without attention between them"},
    {"attention",       FIELD(attention),       "auto", 0, 0, "auto|hone|cudnn|fast", "kernels of attention; auto: cuDNN's in bf16 on a GPU where they serve; fast: cuDNN's, not the same bits on every run"},
};

static const hn_option train_rows[] = {
    HN_OPT_TITLE("Training"),
    {"out",           FIELD(out),           "",       0, 0, NULL, "folder for checkpoints, metrics and the result; default: runs/<program>-<time>"},
    {"resume",        FIELD(resume),        "",       0, 0, NULL, "auto: continue from the newest complete checkpoint in --out; or a checkpoint folder"},
    {"resume-device", FIELD(resume_device), "same",   0, 0, "same|any", "any: go on where the bits differ, like another GPU or the CPU"},
    {"steps",         FIELD(steps),         "0",      0, 1e9, NULL, "optimizer steps; 0: as many as --epochs takes"},
    {"epochs",        FIELD(epochs),        "1",      0, 1e6, NULL, "passes over the data when --steps is 0"},
    {"stop-after",    FIELD(stop_after),    "0",      0, 1e9, NULL, "save and end after this step, as after Ctrl-C; 0: never"},
    {"accumulation",  FIELD(accumulation),  "1",      1, 65536, NULL, "micro-batches of an optimizer step; one denominator for all"},
    {"optimizer",     FIELD(optimizer),     "adamw",  0, 0, "adamw|sgd", "update rule"},
    {"schedule",      FIELD(schedule),      "cosine", 0, 0, "constant|linear|cosine", "of the learning rate behind the warm-up"},
    {"warmup-steps",  FIELD(warmup_steps),  "-1",     -1, 1e9, NULL, "steps of linear warm-up; -1: 3 % of the steps"},
    {"min-lr",        FIELD(min_lr),        "0",      0, 1e3, NULL, "learning rate at the end of linear and cosine"},
    {"beta1",         FIELD(beta1),         "0.9",    0, 0.999999, NULL, "adamw: decay of the first moment"},
    {"beta2",         FIELD(beta2),         "0.999",  0, 0.999999, NULL, "adamw: decay of the second moment"},
    {"eps",           FIELD(eps),           "1e-8",   1e-30, 1, NULL, "adamw: added to the root of the second moment"},
    {"momentum",      FIELD(momentum),      "0.9",    0, 0.999999, NULL, "sgd: momentum"},
    {"nesterov",      FIELD(nesterov),      "off",    0, 0, NULL, "sgd: Nesterov's form of momentum"},
    {"weight-decay",  FIELD(weight_decay),  "0",      0, 10, NULL, "on matrices; not on norms and biases"},
    {"max-grad-norm", FIELD(max_grad_norm), "1",      0, 1e9, NULL, "clip the gradient to this 2-norm; 0: never"},
    {"seed",          FIELD(seed),          "0",      0, 9e15, NULL, "of every random choice"},
    {"recompute",     FIELD(recompute),     "auto",   0, 0, "auto|on|off", "run layers again in backward: less memory, more time, the same bits; auto: as few as make the plan fit"},
    {"memory",        FIELD(memory),        "0",      0, 1e6, NULL, "GiB that the plan may take; 0: what is free on the GPU"},
    {"log-every",     FIELD(log_every),     "10",     1, 1e9, NULL, "steps between two lines where there is no terminal"},
    {"eval-every",    FIELD(eval_every),    "0",      0, 1e9, NULL, "steps between evaluations; 0: at start and end"},
    {"save-every",    FIELD(save_every),    "0",      0, 1e9, NULL, "steps between checkpoints; 0: at the end"},
    {"keep",          FIELD(keep),          "2",      1, 1e6, NULL, "newest checkpoints to keep; the best one is kept besides"},
    {"result",        FIELD(result),        "best",   0, 0, "best|last", "what is exported at the end: best held-out loss, or the last step"},
    {"patience",      FIELD(patience),      "0",      0, 1e9, NULL, "stop after so many evaluations without a better one; 0: never"},
    {"log-format",    FIELD(log_format),    "text",   0, 0, "text|json", "json: one object a line on standard output"},
};

static const hn_option machine_rows[] = {
    HN_OPT_TITLE("Machine"),
    {"device",   FIELD(device),   "auto", 0, 0, NULL, "cpu, cuda or cuda:N; auto: a GPU if there is one, and says what it chose; the first, or for train and eval as many as --gpus says"},
    {"executor", FIELD(executor), "auto", 0, 0, "auto|cpu|cuda-graph|cuda|cuda-check", "on a GPU: captured (auto), one by one, or each operation beside its CPU twin"},
    {"plans",    FIELD(plans),    "auto", 0, 0, NULL, "on a GPU: file of the fastest matrix products, which tune writes; auto: in $XDG_CACHE_HOME/hone or ~/.cache/hone, by GPU and library; off: the library's first choices"},
    {"threads",  FIELD(threads),  "0",    0, 1024, NULL, "CPU threads; 0: one a core, or OMP_NUM_THREADS"},
};

static const hn_option count_rows[] = {
    HN_TEAM_COUNT_ROWS(hn_run_config, team),
};
static const hn_option shard_rows[] = {
    {"shard-base",    FIELD(shard_base),    "off", 0, 0, NULL, "of hone-lora on a decoder: each rank keeps a share of the layers' frozen weights and gathers a layer when it runs; less memory, the same bits"},
};
static const hn_option zero_rows[] = {
    {"zero",          FIELD(zero),          "0",   0, 1, NULL, "1: of hone-full, each rank keeps a share of the optimizer's state, moments and in bf16 masters, and updates that (ZeRO stage 1)"},
};
static const hn_option ranks_rows[] = {HN_TEAM_PLACE_ROWS(hn_run_config, team)};

static const hn_option generate_rows[] = {
    HN_OPT_TITLE("Generation"),
    {"prompt",         FIELD(prompt),         "",    0, 0, NULL, "text to continue; may be empty"},
    {"max-new-tokens", FIELD(max_new_tokens), "128", 1, 1048576, NULL, "tokens to write at most"},
    {"temperature",    FIELD(temperature),    "0",   0, 100, NULL, "0: always the most probable token"},
    {"top-k",          FIELD(top_k),          "0",   0, 1e9, NULL, "sample among so many tokens; 0: all"},
    {"top-p",          FIELD(top_p),          "1",   1e-6, 1, NULL, "sample among the tokens that hold this share"},
    {"seed",           FIELD(seed),           "0",   0, 9e15, NULL, "of the sampling"},
    {"ignore-eos",     FIELD(ignore_eos),     "off", 0, 0, NULL, "go on behind the end-of-sequence token"},
};

static const hn_option predict_rows[] = {
    HN_OPT_TITLE("Prediction"),
    {"images", FIELD(images), NULL, 0, 0, NULL, "JPEG or PNG files, comma separated, or a folder of them"},
    {"top",    FIELD(top),    "5",  1, 1000, NULL, "most probable classes to print of each image"},
};

static const hn_option export_rows[] = {
    HN_OPT_TITLE("Export"),
    {"checkpoint", FIELD(checkpoint), NULL,   0, 0, NULL, "checkpoint folder, or a run's folder: its newest complete one"},
    {"to",         FIELD(to),         NULL,   0, 0, NULL, "folder to write; must not exist"},
    {"kind",       FIELD(kind),       "auto", 0, 0, "auto|peft|merged|pack|shira", "peft: adapter for PEFT; merged: a whole Hugging Face model; pack: ids and changes of blocks; shira: the same as PEFT's SHiRA; auto: peft for lora, pack for sparse, merged for full"},
};
static const hn_option info_rows[] = {
    {"path", FIELD(path), NULL, 0, 0, NULL, "folder or file to look at: model, adapter, delta pack, checkpoint, safetensors"},
};
/* clang-format on */

typedef struct {
    unsigned group;
    const hn_option *row;
    size_t n;
} part;

hn_status hn_run_table(unsigned groups, const hn_option *method, size_t n_method,
                       hn_option_table *out)
{
#define PART(group, rows)                          \
    {                                              \
        group, rows, sizeof(rows) / sizeof *(rows) \
    }
    const part parts[] = {
        PART(HN_GROUP_EXPORT, export_rows),
        PART(HN_GROUP_MODEL, model_rows),
        PART(HN_GROUP_DATA, data_rows),
        PART(HN_GROUP_BATCH, batch_rows),
        PART(HN_GROUP_IMAGE, image_rows),
        PART(HN_GROUP_CLASSES, classes_rows),
        PART(HN_GROUP_IMAGE_TRAIN, image_train_rows),
        PART(HN_GROUP_PREDICT, predict_rows),
        {HN_GROUP_METHOD, method, n_method},
        PART(HN_GROUP_TRAIN, train_rows),
        PART(HN_GROUP_GENERATE, generate_rows),
        PART(HN_GROUP_INFO, info_rows),
        PART(HN_GROUP_MACHINE, machine_rows),
        PART(HN_GROUP_COUNT, count_rows),
        PART(HN_GROUP_SHARD, shard_rows),
        PART(HN_GROUP_ZERO, zero_rows),
        PART(HN_GROUP_RANKS, ranks_rows),
    };
#undef PART
    const size_t n_parts = sizeof parts / sizeof *parts;
    size_t n = 0;
    for (size_t i = 0; i < n_parts; i++) n += groups & parts[i].group ? parts[i].n : 0;
    hn_option *row = hn_malloc(n * sizeof *row);
    if (row == NULL) return HN_FAIL(HN_ERR_MEMORY, "table of %zu options", n);
    size_t at = 0;
    for (size_t i = 0; i < n_parts; i++) {
        if (!(groups & parts[i].group) || parts[i].n == 0) continue;
        memcpy(row + at, parts[i].row, parts[i].n * sizeof *row);
        at += parts[i].n;
    }
    *out = (hn_option_table){.row = row, .n = n};
    return HN_OK;
}

hn_status hn_run_config_check(const hn_run_config *c)
{
    if (c->min_lr > c->lr)
        return HN_FAIL(HN_ERR_ARG, "--min-lr %g is above --lr %g", c->min_lr, c->lr);
    if (c->channels == 2) return HN_FAIL(HN_ERR_ARG, "--channels 2: 1 or 3, or 0 for the model's");
    if (c->nesterov && (strcmp(c->optimizer, "sgd") != 0 || c->momentum <= 0))
        return HN_FAIL(HN_ERR_ARG, "--nesterov: a form of momentum of --optimizer sgd, here %s%s",
                       c->optimizer, c->momentum > 0 ? "" : " with --momentum 0");
    if (strcmp(c->resume, "auto") == 0 && c->out[0] == '\0')
        return HN_FAIL(HN_ERR_ARG, "--resume auto: continues the run in --out, which is missing");
    if (strcmp(c->resume_device, "any") == 0 && c->resume[0] == '\0')
        return HN_FAIL(HN_ERR_ARG, "--resume-device any: of --resume, which is missing");
    return HN_OK;
}
