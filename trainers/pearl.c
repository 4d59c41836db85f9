/* hone-pearl: continual learning of image classifiers with low-rank updates whose ranks are chosen
 * for each task (PEARL), and the methods that it is compared with. */
#include "runtime/train/pearl.h"
#include "runtime/data/images.h"
#include "trainers/common/verb_program.h"

#define FIELD(f) HN_OPT(hn_pearl_config, f)

/* clang-format off */
static const hn_option train_rows[] = {
    HN_OPT_TITLE("Model"),
    {"model",           FIELD(model),           NULL,   0, 0, NULL, "name of an architecture (resnet18-cifar, vit_tiny_patch16_224), a config.json, or a folder with weights"},
    {"weights",         FIELD(weights),         "",     0, 0, NULL, "safetensors file with weights of a named model or config.json; its head is not read"},
    {"image-size",      FIELD(image_size),      "0",    0, 4096, NULL, "side of the images that the network reads, in pixels; 0: as the model says"},
    {"dtype",           FIELD(dtype),           "auto", 0, 0, "auto|f32|bf16", "compute type; auto: that of the files, f32 for random weights"},
    HN_OPT_TITLE("Data"),
    {"data",            FIELD(data),            NULL,   0, 0, NULL, "idx or CIFAR files, or a folder of them or of classes; A+B joins sets"},
    {"eval-data",       FIELD(eval_data),       "",     0, 0, NULL, "held-out images; default: those of the folder"},
    {"eval-split",      FIELD(eval_split),      "0",    0, 0.9, NULL, "share of each class that is held out where nothing else is"},
    {"data-kind",       FIELD(data_kind),       "auto", 0, 0, HN_IMAGE_KINDS, "what the files are"},
    {"coarse",          FIELD(coarse),          "off",  0, 0, NULL, "CIFAR-100: the 20 coarse classes"},
    {"augment",         FIELD(augment),         "auto", 0, 0, "auto|none|crop|crop-flip|resized-crop-flip", "of training images; auto: none for grey ones, crop-flip up to 64 pixels, else resized-crop-flip"},
    {"pad",             FIELD(pad),             "4",    0, 64, NULL, "black pixels around an image that is cropped"},
    {"resident",        FIELD(resident),        "16",   0, 1000, NULL, "GiB of GPU memory that the images may take; larger sets come with each batch"},
    HN_OPT_TITLE("Stream of tasks"),
    {"tasks",           FIELD(tasks),           "",     0, 0, NULL, "classes of each task: 0,1/2,3 by number or name, 4-9 a range; default: cut from the order"},
    {"order",           FIELD(order),           "",     0, 0, NULL, "order of the classes, separated by commas; default: of the data"},
    {"shuffle-classes", FIELD(shuffle_classes), "off",  0, 0, NULL, "a random order, by the seed"},
    {"init-cls",        FIELD(init_cls),        "0",    0, 1e6, NULL, "classes of the first task; 0: as increment"},
    {"increment",       FIELD(increment),       "0",    0, 1e6, NULL, "classes of each other task; 0: all that are left"},
    {"by-part",         FIELD(by_part),         "off",  0, 0, NULL, "each data set of A+B is a task"},
    {"allow-repeats",   FIELD(allow_repeats),   "off",  0, 0, NULL, "classes may come in several tasks"},
    HN_OPT_TITLE("Strategy"),
    {"strategy",        FIELD(strategy),        "pearl", 0, 0, "pearl|lora|head|single|sequential|joint|lwf|ewc", "pearl: ranks by a probe; lora: one rank; head: a new head only; single: a network a task; sequential: one body, trained on; joint: all tasks at once; lwf, ewc: sequential, held back"},
    {"ref",             FIELD(ref),             "auto", 0, 0, "auto|first|pretrained|previous|nearest", "what updates are added to: the network after task 1, the given weights, the task before, or of all the one nearest to the probe; auto: pretrained where weights are given, else first"},
    {"layers",          FIELD(layers),          "all",  0, 0, "all|conv|attention|mlp", "that are adapted; the head and a patch embedding never are"},
    {"norm",            FIELD(norm),            "task", 0, 0, "task|shared|frozen", "norms and their statistics: each task's own, one set that all tasks train, or those of the reference"},
    {"rank-rule",       FIELD(rank_rule),       "r1",   0, 0, "r1|r2|l1|both", "r1: share of the energy of Delta; r2: what is left out is below eps |W|; l1: share of the sum of singular values; both: the smaller of r1 and r2"},
    {"energy",          FIELD(energy),          "0.9",  1e-9, 1, NULL, "share that r1, l1 and both keep"},
    {"eps",             FIELD(eps),             "0.05", 0, 1e9, NULL, "of r2 and both"},
    {"floor",           FIELD(floor),           "0",    0, 1, NULL, "least rank of a layer"},
    {"max-rank",        FIELD(max_rank),        "0",    0, 1e6, NULL, "largest rank of a layer; 0: no cap. From the break-even on layers are kept dense"},
    {"budget",          FIELD(budget),          "0",    0, 1e15, NULL, "parameters that the updates of a task may have; the threshold follows. 0: no budget"},
    {"allocator",       FIELD(allocator),       "threshold", 0, 0, "threshold|greedy", "of a budget: one threshold for all layers, or direction by direction, the most energy for a parameter first"},
    {"rank",            FIELD(rank),            "8",    1, 1e6, NULL, "lora: of every layer; layers of which it would save nothing are kept dense"},
    {"init",            FIELD(init),            "svd",  0, 0, "svd|zero", "of the factors: the probe's directions, or A random and B zero"},
    {"probe-epochs",    FIELD(probe_epochs),    "0",    0, 1e6, NULL, "of --epochs, those of the probe; 0: a tenth, at least one"},
    {"probe-lr",        FIELD(probe_lr),        "0",    0, 1e3, NULL, "learning rate of the probe; 0: --lr"},
    {"truncate",        FIELD(truncate),        "off",  0, 0, NULL, "cut the trained factors down by the same rule"},
    {"lwf-weight",      FIELD(lwf_weight),      "1",    1e-9, 1e6, NULL, "of the distillation"},
    {"lwf-temperature", FIELD(lwf_temperature), "2",    1e-3, 1e3, NULL, "of the distillation"},
    {"ewc-weight",      FIELD(ewc_weight),      "100",  1e-9, 1e12, NULL, "of the penalty; where it is large, --max-grad-norm keeps steps from overshooting"},
    {"ewc-decay",       FIELD(ewc_decay),       "1",    0, 1, NULL, "of the Fisher information with each task"},
    {"ewc-images",      FIELD(ewc_images),      "1000", 1, 1e9, NULL, "of a task that its Fisher information is taken from, at most"},
    {"chooser",         FIELD(chooser),         "auto", 0, 0, "auto|max-logit|min-entropy|max-energy|prototype", "how the task of an image is found when it is not known; auto: every way; an empty list: none"},
    HN_OPT_TITLE("Training"),
    {"epochs",          FIELD(epochs),          "10",   1e-6, 1e6, NULL, "of a task in all, its probe included"},
    {"batch-size",      FIELD(batch_size),      "32",   1, 65536, NULL, "images of a micro-batch"},
    {"accumulation",    FIELD(accumulation),    "1",    1, 1e6, NULL, "micro-batches of a step from each GPU"},
    {"optimizer",       FIELD(optimizer),       "sgd",  0, 0, "adamw|sgd", "update rule"},
    {"lr",              FIELD(lr),              "0.03", 0, 1e3, NULL, "peak learning rate"},
    {"min-lr",          FIELD(min_lr),          "0",    0, 1e3, NULL, "learning rate at the end of linear and cosine"},
    {"schedule",        FIELD(schedule),        "cosine", 0, 0, "constant|linear|cosine", "of the learning rate in each phase, behind the warm-up"},
    {"warmup-steps",    FIELD(warmup_steps),    "-1",   -1, 1e9, NULL, "of each phase; -1: 3 % of its steps"},
    {"momentum",        FIELD(momentum),        "0",    0, 0.999999, NULL, "sgd: momentum"},
    {"nesterov",        FIELD(nesterov),        "off",  0, 0, NULL, "sgd: Nesterov's form of momentum"},
    {"beta1",           FIELD(beta1),           "0.9",  0, 0.999999, NULL, "adamw: decay of the first moment"},
    {"beta2",           FIELD(beta2),           "0.999", 0, 0.999999, NULL, "adamw: decay of the second moment"},
    {"adam-eps",        FIELD(adam_eps),        "1e-8", 1e-30, 1, NULL, "adamw: added to the root of the second moment"},
    {"weight-decay",    FIELD(weight_decay),    "0",    0, 10, NULL, "on matrices; not on norms and biases"},
    {"max-grad-norm",   FIELD(max_grad_norm),   "0",    0, 1e9, NULL, "clip the gradient to this 2-norm; 0: never"},
    {"label-smoothing", FIELD(label_smoothing), "0",    0, 0.99, NULL, "share of the label that is spread over the task's classes"},
    {"seed",            FIELD(seed),            "0",    0, 9e15, NULL, "of every random choice"},
    HN_OPT_TITLE("Run"),
    {"out",             FIELD(out),             "",     0, 0, NULL, "folder of the run; default: runs/hone-pearl-<time>"},
    {"resume",          FIELD(resume),          "",     0, 0, NULL, "auto: go on with the run in --out, also inside a task; or the folder of a run"},
    {"resume-device",   FIELD(resume_device),   "same", 0, 0, "same|any", "any: go on with another number of GPUs, and inside a task on other kernels, with other bits"},
    {"start-from",      FIELD(start_from),      "0",    0, 1e6, NULL, "task to begin with, from 1 on; the records of all before it are there. 0: the next one"},
    {"stop-after",      FIELD(stop_after),      "0",    0, 1e6, NULL, "end after this task; 0: the last"},
    {"stop-after-steps", FIELD(stop_after_steps), "0",  0, 1e12, NULL, "save and end after so many steps of this call, as after Ctrl-C; 0: never"},
    {"save-every",      FIELD(save_every),      "0",    0, 1e9, NULL, "steps between checkpoints inside a phase; 0: at the end of a phase"},
    {"log-every",       FIELD(log_every),       "50",   1, 1e9, NULL, "steps between two lines where there is no terminal"},
    {"log-format",      FIELD(log_format),      "text", 0, 0, "text|json", "json: one object a line on standard output"},
    HN_OPT_TITLE("Machine"),
    {"device",          FIELD(device),          "auto", 0, 0, NULL, "cpu, cuda or cuda:N; auto: the first GPU if there is one"},
    {"executor",        FIELD(executor),        "auto", 0, 0, "auto|cpu|cuda-graph|cuda|cuda-check", "on a GPU: captured (auto), one by one, or each operation beside its CPU twin"},
    {"threads",         FIELD(threads),         "0",    0, 1024, NULL, "CPU threads; 0: one a core, or OMP_NUM_THREADS"},
};

static const hn_option count_rows[] = {HN_TEAM_COUNT_ROWS(hn_pearl_config, team)};
static const hn_option place_rows[] = {HN_TEAM_PLACE_ROWS(hn_pearl_config, team)};

static const hn_option run_rows[] = {
    HN_OPT_TITLE("Run"),
    {"run",             FIELD(run),             NULL,   0, 0, NULL, "folder of a run of train; its options apply"},
};
static const hn_option export_rows[] = {
    {"task",            FIELD(task),            NULL,   1, 1e6, NULL, "whose network is written, from 1 on"},
    {"to",              FIELD(to),              NULL,   0, 0, NULL, "folder to write; must not exist"},
};
/* clang-format on */

enum { RUN, EXPORT, TRAIN, COUNT, PLACE, N_GROUPS };
enum { OF_RUN = 1u << RUN | 1u << TRAIN };

static const hn_verb verbs[] = {
    {"train", "learn the tasks of a stream one after the other", hn_pearl_train,
     1u << TRAIN | 1u << COUNT | 1u << PLACE, false, true},
    {"check", "tasks, layers with shapes and caps, memory; trains nothing", hn_pearl_check,
     1u << TRAIN | 1u << COUNT, false, false},
    {"eval", "accuracies once more from a run's records", hn_pearl_eval, OF_RUN, true, false},
    {"export", "the network of a task as a model folder", hn_pearl_export, OF_RUN | 1u << EXPORT,
     true, false},
    {"report", "a run's tables and CSV files once more", hn_pearl_report, OF_RUN, true, false},
};

static const char *reason(const void *config, const char *option)
{
    return hn_pearl_reason(config, option);
}

#define ROWS(rows)                          \
    {                                       \
        rows, sizeof(rows) / sizeof *(rows) \
    }

int main(int argc, char **argv)
{
    static const char *const of_call[] = {"resume",     "resume-device",    "start-from",
                                          "stop-after", "stop-after-steps", NULL};
    static const hn_verb_team team = {.options = offsetof(hn_pearl_config, team),
                                      .device = offsetof(hn_pearl_config, device),
                                      .threads = offsetof(hn_pearl_config, threads)};
    static const hn_verb_rows group[N_GROUPS] = {[RUN] = ROWS(run_rows),
                                                 [EXPORT] = ROWS(export_rows),
                                                 [TRAIN] = ROWS(train_rows),
                                                 [COUNT] = ROWS(count_rows),
                                                 [PLACE] = ROWS(place_rows)};
    const hn_verb_program program = {.name = "hone-pearl",
                                     .summary = "continual learning of image classifiers",
                                     .verb = verbs,
                                     .n_verbs = sizeof verbs / sizeof *verbs,
                                     .group = group,
                                     .n_groups = N_GROUPS,
                                     .recorded = 1u << TRAIN,
                                     .config_size = sizeof(hn_pearl_config),
                                     .reason = reason,
                                     .of_call = of_call,
                                     .team = &team};
    return hn_verb_program_main(&program, argc, argv);
}
