/* The options of a client: the rows of their table, and which of them mean something. */
#include <string.h>

#include "runtime/model/seg_model.h"
#include "runtime/train/fed_setup.h"

#define FIELD(f) HN_OPT(hn_fed_config, f)

/* clang-format off */
static const hn_option model_rows[] = {
    HN_OPT_TITLE("Model"),
    {"model",           FIELD(model),           NULL,   0, 0, NULL, "name of an architecture (mnist-cnn, cinic-cnn, resnet18-cifar, vit-tiny-cifar), a config.json, or a folder with weights; hone-fedref also segments volumes: " HN_SEG_NAMES ", a *.arch.json, or a folder that it exported"},
    {"weights",         FIELD(weights),         "",     0, 0, NULL, "safetensors file with weights of a named model or config.json"},
    {"image-size",      FIELD(image_size),      "0",    0, 4096, NULL, "side of the images that the network reads, in pixels; 0: as the model says"},
    {"classes",         FIELD(classes),         "0",    0, 1e6, NULL, "of the head, where a client's images have not all of them; 0: those of the images"},
    {"dtype",           FIELD(dtype),           "auto", 0, 0, "auto|f32|bf16", "compute type; auto: that of the files, f32 for random weights"},
    HN_OPT_TITLE("Data"),
    {"data",            FIELD(data),            NULL,   0, 0, NULL, "idx or CIFAR files, or a folder of them or of classes; A+B joins sets. Volumes: a folder of NIfTI files, one file, or a list: image (one for each of --channels), labels, site"},
    {"eval-data",       FIELD(eval_data),       "",     0, 0, NULL, "held-out images or volumes; default: those of a folder of images"},
    {"eval-split",      FIELD(eval_split),      "0",    0, 0.9, NULL, "share of each class that is held out where nothing else is; of volumes: the end of each region"},
    {"eval-batch",      FIELD(eval_batch),      "0",    0, 65536, NULL, "images of a batch of the evaluation; 0: 1024, or fewer that are larger than 112 x 112 pixels"},
    {"data-kind",       FIELD(data_kind),       "auto", 0, 0, HN_IMAGE_KINDS, "what the files are"},
    {"coarse",          FIELD(coarse),          "off",  0, 0, NULL, "CIFAR-100: the 20 coarse classes"},
    {"augment",         FIELD(augment),         "none", 0, 0, "none|crop|crop-flip|resized-crop-flip", "of training images"},
    {"pad",             FIELD(pad),             "4",    0, 64, NULL, "black pixels around an image that is cropped"},
    {"resident",        FIELD(resident),        "16",   0, 1000, NULL, "GiB of GPU memory that the images may take; larger sets come with each batch"},
};

static const hn_option local_rows[] = {
    HN_OPT_TITLE("Local training"),
    {"epochs",          FIELD(epochs),          "1",    1, 1e6, NULL, "of a client over its images or patches, each round"},
    {"batch-size",      FIELD(batch_size),      "32",   1, 65536, NULL, "images, or patches, of a step"},
    {"epoch-end",       FIELD(epoch_end),       "part", 0, 0, "part|join", "part: the last batch of an epoch is what is left; join: it goes on in the next epoch, for models with batch norm"},
    {"optimizer",       FIELD(optimizer),       "sgd",  0, 0, "sgd|adamw", "update rule; its moments begin with zeros in every round"},
    {"lr",              FIELD(lr),              "0.03", 0, 1e3, NULL, "learning rate of the clients"},
    {"lr-decay",        FIELD(lr_decay),        "1",    1e-6, 1, NULL, "factor on it from round to round"},
    {"momentum",        FIELD(momentum),        "0",    0, 0.999999, NULL, "sgd: momentum"},
    {"nesterov",        FIELD(nesterov),        "off",  0, 0, NULL, "sgd: Nesterov's form of momentum"},
    {"beta1",           FIELD(beta1),           "0.9",  0, 0.999999, NULL, "adamw: decay of the first moment"},
    {"beta2",           FIELD(beta2),           "0.999", 0, 0.999999, NULL, "adamw: decay of the second moment"},
    {"adam-eps",        FIELD(adam_eps),        "1e-8", 1e-30, 1, NULL, "adamw: added to the root of the second moment"},
    {"weight-decay",    FIELD(weight_decay),    "0",    0, 10, NULL, "on matrices; not on norms and biases"},
    {"max-grad-norm",   FIELD(max_grad_norm),   "0",    0, 1e9, NULL, "clip the gradient to this 2-norm; 0: never"},
    {"label-smoothing", FIELD(label_smoothing), "0",    0, 0.99, NULL, "share of the label that is spread over the classes"},
    {"mu",              FIELD(mu),              "0",    0, 1e6, NULL, "FedProx: weight of mu/2 |w - m|^2, m the model that the server sent; 0: none"},
    {"frozen-norm",     FIELD(frozen_norm),     "off",  0, 0, NULL, "batch norm by its running values, which stay"},
    HN_OPT_TITLE("Payload: what is trained, and travels"),
    {"payload",         FIELD(payload),         "full", 0, 0, "full|lora|head|sparse", "every parameter; low-rank pairs and the head; the head alone; changes of chosen blocks of weights and the head"},
    {"lora-rank",       FIELD(lora_rank),       "8",    1, 65536, NULL, "rank r of the update B A"},
    {"lora-alpha",      FIELD(lora_alpha),      "16",   1e-6, 1e9, NULL, "the update is scaled by alpha / r"},
    {"lora-targets",    FIELD(lora_targets),    "all-linear", 0, 0, NULL, "modules by the end of their names (attn.qkv), or all-linear: every linear layer and convolution but the head and the stem or patch embedding"},
    {"sparse-block",    FIELD(sparse_block),    "auto", 0, 0, "auto|1x1|4x4|16x16|32x32|64x64|128x128|256x256|row|column", "shape of the blocks; auto: 16x16, 4x4 or 1x1, the first that divides a matrix"},
    {"sparse-budget",   FIELD(sparse_budget),   "lora:8", 0, 0, NULL, "values of all blocks: a share as 0.01 or 1%, lora:RANK, values:COUNT or blocks:COUNT; each matrix has its part by size"},
    {"sparse-score",    FIELD(sparse_score),    "magnitude", 0, 0, "magnitude|random|lift|diagonal", "which blocks of a matrix, chosen once on the server: |weight|; at random; |rank-r weight|; the diagonal"},
    {"sparse-lift-rank", FIELD(sparse_lift_rank), "8",  1, 65536, NULL, "r of |rank-r weight|; of a matrix with a shorter side all of it, which is |weight|"},
    {"sparse-targets",  FIELD(sparse_targets),  "all-linear", 0, 0, NULL, "modules by the end of their names, or all-linear, as --lora-targets"},
    {"sparse-mask",     FIELD(sparse_mask),     "",     0, 0, NULL, "delta pack whose blocks are taken instead, all of them"},
    {"encoding",        FIELD(encoding),        "f32",  0, 0, "f32|bf16|topk", "of what clients send: values, values rounded to bf16, or the differences of largest magnitude"},
    {"topk",            FIELD(topk),            "0.01", 1e-9, 1, NULL, "topk: share of the values that are sent"},
    {"feedback",        FIELD(feedback),        "on",   0, 0, NULL, "topk, bf16: what was not sent is added to the client's next difference (error feedback)"},
    {"seed",            FIELD(seed),            "0",    0, 9e15, NULL, "of every random choice"},
};

static const hn_option machine_rows[] = {
    HN_OPT_TITLE("Machine"),
    {"device",          FIELD(device),          "auto", 0, 0, NULL, "cpu, cuda or cuda:N; auto: a GPU if there is one, and says what it chose; the first, or for hone-fedref train as many as --gpus says"},
    {"executor",        FIELD(executor),        "auto", 0, 0, "auto|cpu|cuda-graph|cuda|cuda-check", "on a GPU: captured (auto), one by one, or each operation beside its CPU twin"},
    {"threads",         FIELD(threads),         "0",    0, 1024, NULL, "CPU threads; 0: one a core, or OMP_NUM_THREADS"},
};
/* clang-format on */

const hn_option *hn_fed_option_rows(hn_fed_row_group g, size_t *n)
{
    static const struct {
        const hn_option *row;
        size_t n;
    } groups[] = {{model_rows, sizeof model_rows / sizeof *model_rows},
                  {local_rows, sizeof local_rows / sizeof *local_rows},
                  {machine_rows, sizeof machine_rows / sizeof *machine_rows}};
    *n = groups[g].n;
    return groups[g].row;
}

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

static bool one_of(const char *option, const char *const *names)
{
    while (*names != NULL && !is(option, *names)) names++;
    return *names != NULL;
}

const char *hn_fed_reason(const hn_fed_config *c, const char *option)
{
    static const char *const sgd[] = {"momentum", "nesterov", NULL},
                             *const adamw[] = {"beta1", "beta2", "adam-eps", NULL},
                             *const lora[] = {"lora-rank", "lora-alpha", "lora-targets", NULL},
                             *const sparse[] = {"sparse-block",
                                                "sparse-budget",
                                                "sparse-score",
                                                "sparse-targets",
                                                "sparse-lift-rank",
                                                "sparse-mask",
                                                NULL};
    if (one_of(option, sgd) && !is(c->optimizer, "sgd")) return "an option of --optimizer sgd";
    if (one_of(option, adamw) && !is(c->optimizer, "adamw"))
        return "an option of --optimizer adamw";
    if (one_of(option, lora) && !is(c->payload, "lora")) return "an option of --payload lora";
    if (one_of(option, sparse) && !is(c->payload, "sparse")) return "an option of --payload sparse";
    if (one_of(option, sparse) && !is(option, "sparse-mask") && c->sparse_mask[0] != '\0')
        return "--sparse-mask has the blocks";
    if (is(option, "sparse-lift-rank") && !is(c->sparse_score, "lift"))
        return "an option of --sparse-score lift";
    if (is(option, "frozen-norm") && is(c->payload, "head"))
        return "--payload head freezes norms in any case";
    if (is(option, "topk") && !is(c->encoding, "topk")) return "an option of --encoding topk";
    if (is(option, "feedback") && is(c->encoding, "f32")) return "--encoding f32 sends everything";
    if (is(option, "pad") && (is(c->augment, "none") || is(c->augment, "resized-crop-flip")))
        return "this --augment does not pad";
    return NULL;
}

hn_status hn_fed_check_options(const hn_fed_config *c, const hn_options_store *given)
{
    for (int g = 0; given != NULL && g < HN_FED_ROWS_GROUPS; g++) {
        size_t n;
        const hn_option *row = hn_fed_option_rows((hn_fed_row_group)g, &n);
        for (size_t i = 0; i < n; i++) {
            const char *reason = row[i].name ? hn_fed_reason(c, row[i].name) : NULL;
            if (reason != NULL && hn_options_given(given, row[i].name))
                return HN_FAIL(HN_ERR_ARG, "--%s: %s", row[i].name, reason);
        }
    }
    if (is(c->payload, "sparse") && !is(c->optimizer, "adamw"))
        return HN_FAIL(HN_ERR_ARG, "--optimizer %s: blocks (--payload sparse) are trained by adamw",
                       c->optimizer);
    if (c->nesterov && is(c->optimizer, "sgd") && c->momentum <= 0)
        return HN_FAIL(HN_ERR_ARG, "--nesterov: a form of momentum, here --momentum 0");
    return HN_OK;
}
