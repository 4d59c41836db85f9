/* hone-fedref: federated training of image classifiers and of segmenters of volumes, simulated:
 * clients that keep their data, a server that averages and corrects (FedRef, and the methods that
 * it is compared with). */
#include "runtime/train/fedref.h"
#include "runtime/data/volumes.h"
#include "trainers/common/verb_program.h"

#define FIELD(f) HN_OPT(hn_fedref_config, f)

/* clang-format off */
static const hn_option volume_rows[] = {
    HN_OPT_TITLE("Volumes, for models that segment them"),
    {"labels",          FIELD(volumes.labels),  "",     0, 0, NULL, "folder of the labels of a folder of volumes (default: beside them, NAME_seg), or their file for one volume"},
    {"eval-labels",     FIELD(volumes.eval_labels), "", 0, 0, NULL, "the same of --eval-data"},
    {"channels",        FIELD(volumes.channels), "",    0, 0, NULL, "a volume has several files, one for each of these: t1,t1ce,t2,flair; NAME_t1 ... NAME_flair of a folder, as many columns of images in a list; default: one"},
    {"volume",          FIELD(volumes.volume),  "0",    0, 1e6, NULL, "which one of a 4-D image"},
    {"intensity",       FIELD(volumes.intensity), "zscore", 0, 0, HN_INTENSITIES, "what the values of each channel of a volume are scaled by"},
    {"relabel",         FIELD(volumes.relabel), "",     0, 0, NULL, "labels that get other numbers: 4:3 for BraTS and FeTS"},
    {"patch",           FIELD(volumes.patch),   "64",   0, 0, NULL, "voxels of a patch along the file's axes: 64, or 64x96x80"},
    {"per-region",      FIELD(volumes.per_region), "8", 1, 1e6, NULL, "patches of a region in an epoch; every one is drawn anew"},
    {"foreground",      FIELD(volumes.foreground), "0.5", 0, 1, NULL, "probability that a patch is laid around a voxel that is not background"},
    {"flip",            FIELD(volumes.flip),    "0",    0, 1, NULL, "probability that an axis of a patch is flipped, each axis"},
    {"pad-value",       FIELD(volumes.pad),     "0",    -1e9, 1e9, NULL, "value outside of regions, where patches and windows reach over them"},
    {"sites",           FIELD(volumes.sites),   "",     0, 0, NULL, "cut the labelled box of each volume into so many regions along its axes, each a site: 2x2x2; held-out volumes likewise, the first with the scanners of the first, and so on; default: sites of the list, or each volume one"},
    {"scale-spread",    FIELD(volumes.scale_spread), "0", 0, 0.999, NULL, "of --sites: its scanner multiplies values by 1 +- this"},
    {"shift-spread",    FIELD(volumes.shift_spread), "0", 0, 1e6, NULL, "of --sites: and adds +- this"},
    {"dice-weight",     FIELD(volumes.w_dice),  "1",    0, 1e6, NULL, "of soft Dice in the loss"},
    {"focal-weight",    FIELD(volumes.w_focal), "0",    0, 1e6, NULL, "of the focal loss"},
    {"cross-weight",    FIELD(volumes.w_cross), "1",    0, 1e6, NULL, "of cross-entropy"},
    {"focal-alpha",     FIELD(volumes.focal_alpha), "0.25", 0, 1, NULL, "focal loss: weight of a voxel's class, 1 - alpha that of the others"},
    {"focal-gamma",     FIELD(volumes.focal_gamma), "2", 0, 100, NULL, "focal loss: exponent"},
    {"window",          FIELD(volumes.window),  "",     0, 0, NULL, "of the evaluation, as --patch, which is the default"},
    {"overlap",         FIELD(volumes.overlap), "0.5",  0, 0.95, NULL, "of neighbouring windows"},
    {"gaussian",        FIELD(volumes.gaussian), "on",  0, 0, NULL, "the middle of a window counts most; off: all of it alike"},
};

static const hn_option partition_rows[] = {
    HN_OPT_TITLE("Partition: who has which images or patches"),
    {"partition",       FIELD(partition),       "iid",  0, 0, "iid|dirichlet|mixture|shards|group|quantity", "random and even; by class, shares from Dirichlet(alpha); a mix of classes a client; sorted by label and cut; a group (of volumes: a site) a client; random and uneven"},
    {"clients",         FIELD(clients),         "10",   0, 1e6, NULL, "that there are; 0 with group: as many as groups"},
    {"alpha",           FIELD(alpha),           "0.5",  1e-6, 1e9, NULL, "of Dirichlet: small: few classes a client"},
    {"shards",          FIELD(shards),          "2",    1, 1e6, NULL, "of a client"},
    {"groups",          FIELD(groups),          "",     0, 0, NULL, "file with a number for each image, in their order: writer, site; volumes know theirs"},
    {"min-samples",     FIELD(min_samples),     "1",    1, 1e9, NULL, "images or patches that every client has at least"},
    HN_OPT_TITLE("Rounds"),
    {"rounds",          FIELD(rounds),          "100",  1, 1e6, NULL, "of the run"},
    {"per-round",       FIELD(per_round),       "0",    0, 1e6, NULL, "clients that are asked in a round, at random; 0: all"},
    {"dropout",         FIELD(dropout),         "0",    0, 0.999, NULL, "probability that an asked client sends nothing"},
    {"late",            FIELD(late),            "0",    0, 0.999, NULL, "probability that a client does only a share of its steps"},
    {"late-least",      FIELD(late_least),      "0.1",  0.001, 1, NULL, "least such share"},
    {"target",          FIELD(target),          "0",    0, 1, NULL, "accuracy (volumes: mean Dice) to reach, declared before: rounds and bytes until then; 0: none"},
};

static const hn_option server_rows[] = {
    HN_OPT_TITLE("Server (-1: as the method has it)"),
    {"method",          FIELD(method),          "fedref-v3", 0, 0, "fedavg|fedprox|fedavgm|fedadagrad|fedadam|fedyogi|median|trimmed-mean|ema|fedref-v1|fedref-v2|fedref-v3", "how updates become the next model"},
    {"quorum",          FIELD(quorum),          "1",    1, 1e6, NULL, "good updates that a round needs"},
    {"below-quorum",    FIELD(below_quorum),    "stop", 0, 0, "stop|skip", "stop: the run ends with the state before that round; skip: the model stays as it was"},
    {"server-rate",     FIELD(rate),            "-1",   -1, 1e3, NULL, "fedavgm, fedadagrad, fedadam, fedyogi, fedref-v1, -v2: the server's step"},
    {"server-beta1",    FIELD(server_beta1),    "-1",   -1, 0.999999, NULL, "momentum of the server"},
    {"server-beta2",    FIELD(server_beta2),    "-1",   -1, 0.999999, NULL, "fedadam, fedyogi: decay of the squares"},
    {"tau",             FIELD(tau),             "-1",   -1, 1e3, NULL, "adaptive methods: added to the root"},
    {"trim",            FIELD(trim),            "-1",   -1, 0.499, NULL, "trimmed-mean: share that is left out on each side"},
    {"ema",             FIELD(ema),             "-1",   -1, 0.999999, NULL, "ema: weight of the average so far"},
    {"p",               FIELD(p),               "0",    0, 64, NULL, "fedref: aggregates in the reference; 0: as the method has it"},
    {"lambda1",         FIELD(lambda1),         "-1",   -1, 1e9, NULL, "fedref: pull to the model that was sent"},
    {"lambda2",         FIELD(lambda2),         "-1",   -1, 1e9, NULL, "fedref: pull to the reference"},
    {"growth",          FIELD(growth),          "-1",   -1, 1e6, NULL, "fedref: factor on lambda2 every so many rounds; 1: it stays"},
    {"growth-every",    FIELD(every),           "0",    0, 1e6, NULL, "fedref: rounds from growth to growth; 0: as the method has it"},
    {"lambda2-cap",     FIELD(cap),             "-1",   -1, 1e9, NULL, "fedref: to which it grows"},
    {"reference-weights", FIELD(weights),       "auto", 0, 0, "auto|age|uniform|slot", "fedref: of the aggregates in the reference; auto: as the method has it"},
    {"loss-term",       FIELD(loss_term),       "on",   0, 0, NULL, "fedref-v1: the change of the mean loss is part of the correction"},
    {"first-axis-bug",  FIELD(first_axis_bug),  "on",   0, 0, NULL, "fedref-v1: the reference summed over its first axis, as released"},
    {"fisher",          FIELD(fisher),          "off",  0, 0, NULL, "fedref-v3: clients also send the diagonal of their Fisher information, which weighs their values; --simulate one"},
    {"fisher-images",   FIELD(fisher_images),   "64",   1, 1e9, NULL, "of a client that it is taken from, at most, one by one"},
    {"down",            FIELD(down),            "f32",  0, 0, "f32|bf16", "encoding of the model that clients are sent"},
};

static const hn_option call_rows[] = {
    HN_OPT_TITLE("Run"),
    {"out",             FIELD(out),             "",     0, 0, NULL, "folder of the run; default: runs/hone-fedref-<time>"},
    {"resume",          FIELD(resume),          "",     0, 0, NULL, "auto: go on with the run in --out; or the folder of a run"},
    {"stop-after",      FIELD(stop_after),      "0",    0, 1e6, NULL, "end behind this round, as after Ctrl-C; 0: the last"},
    {"eval-every",      FIELD(eval_every),      "1",    1, 1e6, NULL, "rounds from measurement to measurement"},
    {"save-every",      FIELD(save_every),      "1",    1, 1e6, NULL, "rounds from state to state on disk"},
    {"keep",            FIELD(keep),            "1",    1, 1e6, NULL, "newest states that stay on disk"},
    {"simulate",        FIELD(simulate),        "one",  0, 0, "one|replicas|block", "clients one after the other, any network; as replicas of one engine, small ones; each in a block of the GPU, the smallest"},
    {"lanes",           FIELD(lanes),           "1",    1, 64, NULL, "one: clients at a time on a GPU, each on a stream of its own; the results are the same bits, the memory is that of as many"},
    {"at-once",         FIELD(at_once),         "0",    0, 1e5, NULL, "replicas, block: clients of a group; 0: all of a round"},
    {"inject",          FIELD(inject),          "",     0, 0, NULL, "damage to updates, for tests: KIND:CLIENT@ROUND,..; nan, shape, stale, garbage, truncated"},
    {"log-format",      FIELD(log_format),      "text", 0, 0, "text|json", "json: one object a round on standard output"},
};

static const hn_option count_rows[] = {HN_TEAM_COUNT_ROWS(hn_fedref_config, team)};
static const hn_option place_rows[] = {HN_TEAM_PLACE_ROWS(hn_fedref_config, team)};

static const hn_option run_rows[] = {
    HN_OPT_TITLE("Run"),
    {"run",             FIELD(run),             NULL,   0, 0, NULL, "folder of a run of train; its options apply"},
};
static const hn_option export_rows[] = {
    {"to",              FIELD(to),              NULL,   0, 0, NULL, "folder to write; must not exist"},
    {"kind",            FIELD(kind),            "model", 0, 0, "model|peft", "a whole model; the low-rank pairs of --payload lora"},
};
/* clang-format on */

enum {
    RUN,
    EXPORT,
    MODEL,
    VOLUMES,
    PARTITION,
    LOCAL,
    SERVER,
    CALL,
    MACHINE,
    COUNT,
    PLACE,
    N_GROUPS
};
enum {
    TRAIN = 1u << MODEL | 1u << VOLUMES | 1u << PARTITION | 1u << LOCAL | 1u << SERVER |
            1u << CALL | 1u << MACHINE,
    OF_RUN = TRAIN | 1u << RUN,
};

static const hn_verb verbs[] = {
    {"train", "run the rounds: clients train, the server aggregates", hn_fedref_train,
     TRAIN | 1u << COUNT | 1u << PLACE, false, true},
    {"check", "clients and what they have, bytes of a round, memory; trains nothing",
     hn_fedref_check, TRAIN | 1u << COUNT, false, false},
    {"eval", "measure a run's model once more, class by class", hn_fedref_eval, OF_RUN, true,
     false},
    {"export", "a run's model as a folder", hn_fedref_export, OF_RUN | 1u << EXPORT, true, false},
    {"report", "a run's table, CSV files and picture once more", hn_fedref_report, OF_RUN, true,
     false},
    {"info", "what travels in a run, and where its server is", hn_fedref_info, OF_RUN, true, false},
};

static const char *reason(const void *config, const char *option)
{
    return hn_fedref_reason(config, option);
}

static hn_verb_rows shared(hn_fed_row_group g)
{
    hn_verb_rows rows;
    rows.row = hn_fed_option_rows(g, &rows.n);
    return rows;
}

#define ROWS(rows)                          \
    {                                       \
        rows, sizeof(rows) / sizeof *(rows) \
    }

int main(int argc, char **argv)
{
    static const char *const of_call[] = {"resume", "stop-after", NULL};
    static const hn_verb_team team = {.options = offsetof(hn_fedref_config, team),
                                      .device = offsetof(hn_fedref_config, fed.device),
                                      .threads = offsetof(hn_fedref_config, fed.threads)};
    const hn_verb_rows group[N_GROUPS] = {
        [RUN] = ROWS(run_rows),
        [EXPORT] = ROWS(export_rows),
        [MODEL] = shared(HN_FED_ROWS_MODEL),
        [VOLUMES] = ROWS(volume_rows),
        [PARTITION] = ROWS(partition_rows),
        [LOCAL] = shared(HN_FED_ROWS_LOCAL),
        [SERVER] = ROWS(server_rows),
        [CALL] = ROWS(call_rows),
        [MACHINE] = shared(HN_FED_ROWS_MACHINE),
        [COUNT] = ROWS(count_rows),
        [PLACE] = ROWS(place_rows),
    };
    const hn_verb_program program = {
        .name = "hone-fedref",
        .summary = "federated training of image classifiers and segmenters of volumes",
        .verb = verbs,
        .n_verbs = sizeof verbs / sizeof *verbs,
        .group = group,
        .n_groups = N_GROUPS,
        .recorded = TRAIN,
        .config_size = sizeof(hn_fedref_config),
        .reason = reason,
        .of_call = of_call,
        .team = &team};
    return hn_verb_program_main(&program, argc, argv);
}
