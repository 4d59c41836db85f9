/* hone-hyperflow: few-shot adaptation by integrating a learned drift: trajectories of fine-tuning,
 * the network that learns them, and what it is compared with. */
#include "runtime/train/hyperflow.h"
#include "trainers/common/verb_program.h"

#define FIELD(f) HN_OPT(hn_hyperflow_config, f)

/* clang-format off */
static const hn_option generate_rows[] = {
    HN_OPT_TITLE("Backbone"),
    {"model",           FIELD(model),           NULL,   0, 0, NULL, "name of a vision transformer (vit_tiny_patch16_224, vit-tiny-cifar), a config.json, or a folder with weights"},
    {"weights",         FIELD(weights),         "",     0, 0, NULL, "safetensors file with weights of a named model or config.json"},
    {"image-size",      FIELD(image_size),      "0",    0, 4096, NULL, "side of the images that the network reads, in pixels; 0: as the model says"},
    {"dtype",           FIELD(dtype),           "auto", 0, 0, "auto|f32|bf16", "compute type; auto: that of the files, f32 for random weights"},
    {"adapted",         FIELD(adapted),         "qv",   0, 0, "qv|biases", "what a trajectory is of: query and value biases of the attention; all biases inside the blocks but those of keys"},
    {"scale",           FIELD(scale),           "10",   1e-3, 1e3, NULL, "logits are scale (cosine to the class's mean + offset)"},
    {"offset",          FIELD(offset),          "0",    -1e3, 1e3, NULL, "the same"},
    HN_OPT_TITLE("Domains"),
    {"data",            FIELD(data),            NULL,   0, 0, NULL, "folder with a folder for each domain: idx or CIFAR files, Omniglot's, a folder for each class, or one for each alphabet with those of its characters"},
    {"train-domains",   FIELD(train_domains),   NULL,   0, 0, NULL, "of the trajectories: NAME or NAME=PATH below --data (or its own path, from / or ./ on); their classes are split"},
    {"test-domains",    FIELD(test_domains),    "",     0, 0, NULL, "of eval: NAME:PART with PART test or held-out for a domain of training, NAME for another"},
    {"split",           FIELD(split),           "64/16/20", 0, 0, NULL, "classes of a domain of training for trajectories, validation and test, in percent"},
    {"splits",          FIELD(splits),          "",     0, 0, NULL, "NAME=FILE: instead of --split, the classes of that domain of training by a list, as published ones are: lines 'train <class>', 'valid <class>', 'test <class>'"},
    {"hold-out",        FIELD(hold_out),        "",     0, 0, NULL, "groups of their classes that no split has: superclasses of CIFAR-100, alphabets of Omniglot; they are NAME:held-out"},
    {"class-images",    FIELD(class_images),    "500",  0, 1e9, NULL, "of every class, the first ones, that are used (of a folder of classes no others are read); 0: all"},
    {"held-images",     FIELD(held_images),     "0.2",  0.01, 0.9, NULL, "share of every class's images, where a domain has no validation classes, for validation episodes"},
    HN_OPT_TITLE("Episodes"),
    {"protocol",        FIELD(protocol),        "fixed", 0, 0, "fixed|meta-dataset|cdfsl", "so many classes, support and query images; as Meta-Dataset draws them; 5 classes and 15 queries. Images of folders: the last two cut the centre of --image-size from a shorter side of 146/128 and 1.15 of it"},
    {"way",             FIELD(way),             "5",    2, 64, NULL, "fixed: classes of an episode"},
    {"way-most",        FIELD(way_most),        "0",    0, 64, NULL, "fixed: the number of classes is drawn from --way to this; 0: it is --way"},
    {"shot",            FIELD(shot),            "5",    1, 500, NULL, "fixed, cdfsl: support images of a class"},
    {"shot-most",       FIELD(shot_most),       "0",    0, 500, NULL, "fixed: the same of --shot"},
    {"query-shot",      FIELD(query),           "15",   1, 500, NULL, "fixed: query images of a class"},
    {"max-support",     FIELD(max_support),     "500",  2, 5000, NULL, "meta-dataset: support images of an episode at most"},
    {"max-query",       FIELD(max_query),       "500",  1, 5000, NULL, "meta-dataset: query images at most"},
    {"valid-episodes",  FIELD(valid_episodes),  "20",   1, 10000, NULL, "of a domain, for every choice"},
    {"seed",            FIELD(seed),            "0",    0, 9e15, NULL, "of every random choice"},
    HN_OPT_TITLE("Fine-tuning"),
    {"tune-steps",      FIELD(tune_steps),      "50",   1, 10000, NULL, "of Adam, restarted for every episode"},
    {"rates",           FIELD(rates),           "3e-4,1e-3,3e-3,1e-2", 0, 0, NULL, "learning rates that are tried on validation episodes: of biases, norms, head, low-rank pairs"},
    {"augment",         FIELD(augment),         "on",   0, 0, NULL, "queries of a step are augmented support images (flip, colour, shift)"},
    {"at-once",         FIELD(at_once),         "0",    0, HN_HYPERFLOW_AT_ONCE, NULL, "episodes that are tuned at once, at most; 0: 32 on a GPU, 4 on the CPU, where more take more memory and are no faster"},
    HN_OPT_TITLE("Trajectories"),
    {"trajectories",    FIELD(trajectories),    "4000", 1, 1e7, NULL, "of all domains together"},
    {"inits",           FIELD(inits),           "4",    1, 64, NULL, "starts of an episode: the first is the backbone, the others have noise"},
    {"noise",           FIELD(noise),           "0.3",  0, 10, NULL, "deviation of that noise, in root mean squares of what tuning changes"},
    {"knots",           FIELD(knots),           "11",   2, 1024, NULL, "that are stored of a trajectory, its ends among them; one less divides --tune-steps"},
    {"budget",          FIELD(budget),          "0",    0, 1e6, NULL, "GiB that the file may take; 0: what there is"},
};

static const hn_option generate_call_rows[] = {
    HN_OPT_TITLE("Run"),
    {"out",             FIELD(out),             "",     0, 0, NULL, "folder of the run; default: runs/hone-hyperflow-<time>"},
    {"resume",          FIELD(resume),          "",     0, 0, NULL, "auto: go on with the run in --out; or the folder of a run"},
};

static const hn_option stop_rows[] = {
    {"stop-after",      FIELD(stop_after),      "0",    0, 1e9, NULL, "end as after Ctrl-C: behind so many batches of episodes (of each rank) or cells of this call; behind this step of train; 0: the last"},
};

static const hn_option name_rows[] = {
    {"drift",           FIELD(drift),           "drift", 0, 0, NULL, "name of the drift network: its folder in the run"},
};

static const hn_option integration_rows[] = {
    HN_OPT_TITLE("Integration"),
    {"integrator",      FIELD(integrator),      "euler", 0, 0, "euler|midpoint|rk4", "one, two, four evaluations a step"},
    {"integration-steps", FIELD(integration_steps), "10", 1, 1000, NULL, "from time 0 to the stop time"},
};

static const hn_option eval_rows[] = {
    {"stops",           FIELD(stops),           "0.25,0.5,0.75,1", 0, 0, NULL, "stop times that are tried on validation episodes, beside 0: no adaptation"},
    HN_OPT_TITLE("Evaluation"),
    {"methods",         FIELD(methods),         "direct,head,bias,ln,lora,full", 0, 0, "direct|head|bias|ln|lora|full|hyperflow|hyperflow-global|descent", "no adaptation; a linear layer; what is --adapted; layer norms; low-rank pairs; everything; the drift network, its stop time by domain or one for all; support losses of training tasks beside tuning"},
    {"one-shot-runs",   FIELD(one_shot_runs),   "",     0, 0, NULL, "folder run01, run02, .. of Omniglot (all_runs.zip, unpacked): its 20 episodes of 20 classes and one image each are one more domain, omniglot-runs; choices are made on the validation classes of domain omniglot"},
    {"only",            FIELD(only),            "",     0, 0, NULL, "of --test-domains; default: all"},
    {"test-episodes",   FIELD(test_episodes),   "600",  2, 1e6, NULL, "of a domain"},
    {"full-rates",      FIELD(full_rates),      "1e-5,1e-4,3e-4,1e-3", 0, 0, NULL, "learning rates that are tried of full"},
    {"lora-rank",       FIELD(lora_rank),       "4",    1, 256, NULL, "of pairs at qkv"},
};

static const hn_option adapt_rows[] = {
    {"stop",            FIELD(stop),            "1",    0, 1, NULL, "stop time"},
    HN_OPT_TITLE("Support set"),
    {"support",         FIELD(support),         "",     0, 0, NULL, "folder per class with JPEG or PNG images"},
    {"query",           FIELD(query_images),    "",     0, 0, NULL, "folder with images to be classified"},
    {"to",              FIELD(to),              NULL,   0, 0, NULL, "folder to write: delta.safetensors, predictions.csv; must not exist"},
};

static const hn_option episode_rows[] = {
    {"of",              FIELD(of),              "",     0, 0, NULL, "instead of --support: one of --test-domains, whose --episode it is"},
    {"episode",         FIELD(episode),         "0",    0, 1e9, NULL, "number of a test episode"},
};

static const hn_option carried_rows[] = {
    HN_OPT_TITLE("Networks"),
    {"file",            FIELD(file),            NULL,   0, 0, NULL, "that export has written"},
};

static const hn_option export_rows[] = {
    HN_OPT_TITLE("Export"),
    {"to",              FIELD(to),              NULL,   0, 0, NULL, "file to write; must not exist"},
};

static const hn_option run_rows[] = {
    HN_OPT_TITLE("Run"),
    {"run",             FIELD(run),             NULL,   0, 0, NULL, "folder of a run of generate; its options apply"},
};

static const hn_option machine_rows[] = {
    HN_OPT_TITLE("Machine"),
    {"device",          FIELD(device),          "auto", 0, 0, NULL, "cpu, cuda or cuda:N; auto: the first GPU if there is one"},
    {"executor",        FIELD(executor),        "auto", 0, 0, "auto|cpu|cuda-graph|cuda|cuda-check", "on a GPU: captured (auto), one by one, or each operation beside its CPU twin"},
    {"threads",         FIELD(threads),         "0",    0, 1024, NULL, "CPU threads; 0: one a core, or OMP_NUM_THREADS"},
};

static const hn_option one_rows[] = {
    {"gpus",            FIELD(team.gpus),       "1",    0, 0, NULL, "1: this verb works on one; --device says which"},
};

static const hn_option count_rows[] = {HN_TEAM_COUNT_ROWS(hn_hyperflow_config, team)};
static const hn_option place_rows[] = {HN_TEAM_PLACE_ROWS(hn_hyperflow_config, team)};
/* clang-format on */

enum {
    RUN,
    NAME,
    EXPORT,
    CARRIED,
    ADAPT,
    EPISODE,
    TRAIN,
    INTEGRATION,
    EVAL,
    GENERATE,
    CALL,
    STOP,
    MACHINE,
    ONE,
    COUNT,
    PLACE,
    N_GROUPS
};
#define BIT(group) (1u << (group))
enum {
    ALL = BIT(GENERATE) | BIT(MACHINE), /* what every verb has */
    OF_RUN = ALL | BIT(RUN),
    OF_DRIFT = OF_RUN | BIT(NAME),
    PLANNED = ALL | BIT(NAME) | BIT(TRAIN) | BIT(INTEGRATION) | BIT(EVAL) | BIT(ONE),
    RANKS = BIT(COUNT) | BIT(PLACE)
};

static const hn_verb verbs[] = {
    {"generate", "tune many episodes at once, keep their trajectories", hn_hyperflow_generate,
     ALL | BIT(CALL) | BIT(STOP) | RANKS, false, true},
    {"train", "the encoder, where it is to be, and the drift network", hn_hyperflow_train,
     OF_DRIFT | BIT(TRAIN) | BIT(STOP) | RANKS, true, true},
    {"eval", "methods on test episodes, paired", hn_hyperflow_eval,
     OF_DRIFT | BIT(INTEGRATION) | BIT(EVAL) | BIT(STOP) | RANKS, true, true},
    {"adapt", "one support set: its biases, predictions", hn_hyperflow_adapt,
     OF_DRIFT | BIT(INTEGRATION) | BIT(ADAPT) | BIT(EPISODE) | BIT(ONE), true, false},
    {"export", "backbone, encoder and drift network as one file", hn_hyperflow_export,
     OF_DRIFT | BIT(EXPORT) | BIT(ONE), true, false},
    {"apply", "adapt, with the file of export alone", hn_hyperflow_apply,
     BIT(CARRIED) | BIT(INTEGRATION) | BIT(ADAPT) | BIT(MACHINE) | BIT(ONE), false, false},
    {"check", "domains, episodes, disk and work of each stage; runs nothing", hn_hyperflow_check,
     PLANNED, false, false},
    {"plan", "memory and operations of adaptation and of fine-tuning", hn_hyperflow_plan, PLANNED,
     false, false},
    {"info", "where each stage of a run is", hn_hyperflow_info, OF_RUN | BIT(ONE), true, false},
    {"report", "a run's table and pictures once more", hn_hyperflow_report, OF_RUN | BIT(ONE), true,
     false},
};

static const char *reason(const void *config, const char *option)
{
    return hn_hyperflow_reason(config, option);
}

#define ROWS(rows)                          \
    {                                       \
        rows, sizeof(rows) / sizeof *(rows) \
    }

int main(int argc, char **argv)
{
    static const hn_verb_team team = {.options = offsetof(hn_hyperflow_config, team),
                                      .device = offsetof(hn_hyperflow_config, device),
                                      .threads = offsetof(hn_hyperflow_config, threads)};
    hn_verb_rows train;
    train.row = hn_hyperflow_train_rows(&train.n);
    const hn_verb_rows group[N_GROUPS] = {
        [RUN] = ROWS(run_rows),
        [NAME] = ROWS(name_rows),
        [EXPORT] = ROWS(export_rows),
        [CARRIED] = ROWS(carried_rows),
        [ADAPT] = ROWS(adapt_rows),
        [EPISODE] = ROWS(episode_rows),
        [TRAIN] = train,
        [INTEGRATION] = ROWS(integration_rows),
        [EVAL] = ROWS(eval_rows),
        [GENERATE] = ROWS(generate_rows),
        [CALL] = ROWS(generate_call_rows),
        [STOP] = ROWS(stop_rows),
        [MACHINE] = ROWS(machine_rows),
        [ONE] = ROWS(one_rows),
        [COUNT] = ROWS(count_rows),
        [PLACE] = ROWS(place_rows),
    };
    const hn_verb_program program = {.name = "hone-hyperflow",
                                     .summary =
                                         "few-shot adaptation by integrating a learned drift",
                                     .verb = verbs,
                                     .n_verbs = sizeof verbs / sizeof *verbs,
                                     .group = group,
                                     .n_groups = N_GROUPS,
                                     .recorded = BIT(GENERATE) | BIT(MACHINE),
                                     .config_size = sizeof(hn_hyperflow_config),
                                     .reason = reason,
                                     .team = &team};
    return hn_verb_program_main(&program, argc, argv);
}
