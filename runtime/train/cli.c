#define _POSIX_C_SOURCE 200809L
#include "runtime/train/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/alloc.h"
#include "runtime/base/nearest.h"
#include "runtime/comm/ranks.h"
#include "runtime/file/folder.h"
#include "runtime/train/run_options.h"
#include "runtime/train/team.h"
#include "runtime/train/trainer.h"
#include "runtime/train/verbs.h"

typedef struct {
    const char *name, *help;
    unsigned groups;                           /* HN_GROUP_RANKS: several ranks may run it */
    hn_status (*run)(hn_session *s, FILE *to); /* NULL: train */
} verb;

enum {
    TRAIN_GROUPS = HN_GROUP_MODEL | HN_GROUP_DATA | HN_GROUP_BATCH | HN_GROUP_IMAGE |
                   HN_GROUP_IMAGE_TRAIN | HN_GROUP_METHOD | HN_GROUP_TRAIN | HN_GROUP_MACHINE,
    PLAN_GROUPS = (TRAIN_GROUPS & ~HN_GROUP_DATA) | HN_GROUP_CLASSES,
    SHARE_GROUPS = HN_GROUP_COUNT | HN_GROUP_SHARD | HN_GROUP_ZERO,
};

static const verb verbs[] = {
    {"train", "train on data; writes checkpoints, metrics and the result",
     TRAIN_GROUPS | SHARE_GROUPS | HN_GROUP_RANKS, NULL},
    {"check", "data, one row token by token or the first images, memory plan; trains nothing",
     TRAIN_GROUPS | SHARE_GROUPS, hn_verb_check},
    {"plan", "the memory that training takes, and what a step holds", PLAN_GROUPS | SHARE_GROUPS,
     hn_verb_plan},
    {"tune", "find the fastest matrix products on this GPU, for the train that follows",
     PLAN_GROUPS, hn_verb_tune},
    {"eval", "held-out loss of a model, with or without an adapter",
     HN_GROUP_MODEL | HN_GROUP_DATA | HN_GROUP_BATCH | HN_GROUP_IMAGE | HN_GROUP_MACHINE |
         HN_GROUP_COUNT | HN_GROUP_SHARD | HN_GROUP_RANKS,
     hn_verb_eval},
    {"generate", "continue a text", HN_GROUP_MODEL | HN_GROUP_GENERATE | HN_GROUP_MACHINE,
     hn_verb_generate},
    {"predict", "classes of images",
     HN_GROUP_MODEL | HN_GROUP_PREDICT | HN_GROUP_IMAGE | HN_GROUP_MACHINE, hn_verb_predict},
    {"export", "write a checkpoint as a PEFT adapter or a merged model; options of its run apply",
     TRAIN_GROUPS | HN_GROUP_EXPORT, hn_verb_export},
    {"info", "what a folder or file is", HN_GROUP_INFO, hn_verb_info},
};
enum { N_VERBS = sizeof verbs / sizeof *verbs };

static void print_log(void *context, hn_log_level level, const char *text)
{
    (void)context;
    fprintf(stderr, "%s%s\n", level == HN_LOG_WARN ? "warning: " : "", text);
}

static void usage(const hn_method *m, FILE *to)
{
    fprintf(to, "%s: %s\n\nusage: %s VERB [--config FILE.yaml] [--option value] [option=value]\n\n",
            m->program, m->summary, m->program);
    for (int i = 0; i < N_VERBS; i++) fprintf(to, "  %-9s %s\n", verbs[i].name, verbs[i].help);
    fprintf(to, "\n%s VERB --help lists the options of a verb\n", m->program);
}

static const verb *find_verb(const hn_method *m, const char *name)
{
    const char *names[N_VERBS];
    for (int i = 0; i < N_VERBS; i++) {
        names[i] = verbs[i].name;
        if (strcmp(name, verbs[i].name) == 0) return &verbs[i];
    }
    const char *near = hn_nearest(name, names, N_VERBS);
    fprintf(stderr, "%s: no verb '%s'%s%s%s; %s --help lists them\n", m->program, name,
            near ? ", did you mean '" : "", near ? near : "", near ? "'" : "", m->program);
    return NULL;
}

/* The value of --checkpoint on the command line; NULL without one, or when --config is given. */
static const char *checkpoint_of(int argc, char *const *argv)
{
    const char *checkpoint = NULL;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (strcmp(word, "--config") == 0 || strncmp(word, "--config=", 9) == 0) return NULL;
        if (strncmp(word, "--", 2) == 0) word += 2;
        if (strcmp(word, "checkpoint") == 0 && i + 1 < argc) checkpoint = argv[i + 1];
        if (strncmp(word, "checkpoint=", 11) == 0) checkpoint = word + 11;
    }
    return checkpoint;
}

/* export reads the run.yaml beside the checkpoint before the user's own options. *list: the new
 * argument list (to be freed with its element 1), or NULL where nothing is to be added. */
static hn_status with_run_options(int *argc, char *const *argv, char ***list)
{
    static const char flag[] = "--config=";
    const char *checkpoint = checkpoint_of(*argc, argv);
    if (checkpoint == NULL) return HN_OK;
    char *option = hn_asprintf("%s%s/run.yaml", flag, checkpoint);
    char **words = hn_malloc(((size_t)*argc + 1) * sizeof *words);
    hn_status st = HN_OK;
    if (option == NULL || words == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for the options of %s", checkpoint);
    else if (!hn_is_file(option + strlen(flag)))
        st = HN_FAIL(HN_ERR_IO,
                     "--checkpoint %s: neither a checkpoint nor a run's folder, there is "
                     "no run.yaml",
                     checkpoint);
    if (st != HN_OK) {
        hn_free(option);
        hn_free(words);
        return st;
    }
    words[0] = argv[0];
    words[1] = option;
    memcpy(words + 2, argv + 1, ((size_t)*argc - 1) * sizeof *words);
    ++*argc;
    *list = words;
    return HN_OK;
}

/* Options of several ranks on a verb that one process runs alone: better said than that there are
 * none of these names. */
static hn_status refuse_ranks(const verb *v, int argc, char *const *argv)
{
    static const char *const names[] = {"--gpus", "--ranks", "--shard-base"};
    for (int i = 1; i < argc && !(v->groups & HN_GROUP_COUNT); i++)
        for (size_t k = 0; k < sizeof names / sizeof *names; k++)
            if (strcspn(argv[i], "=") == strlen(names[k]) &&
                strncmp(argv[i], names[k], strlen(names[k])) == 0)
                return HN_FAIL(HN_ERR_ARG,
                               "%s: %s is one process on one device; train and eval can be several",
                               names[k], v->name);
    return HN_OK;
}

/* Runs the verb, where it may be as one rank of several. */
static hn_status run(const verb *v, hn_session *s, const hn_option_table *table, int *exit_code)
{
    const hn_team_request q = hn_session_team(s);
    bool go_on = true;
    if (v->groups & HN_GROUP_RANKS) HN_TRY(hn_team_start(&s->team, &q, &s->log, &go_on, exit_code));
    if (!go_on) return HN_OK;
    return v->run ? v->run(s, stdout) : hn_train(s, table, stdout);
}

/* Parses the options of a verb and runs it. Returns the exit code. */
static int run_verb(const hn_method *m, const verb *v, int argc, char *const *argv)
{
    int exit_code = 0;
    hn_option_table table = {0};
    hn_options_store *store = NULL;
    hn_session session = {0};
    char **list = NULL;
    void *config = hn_calloc(1, m->config_size);
    hn_status st = config ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%zu bytes of options", m->config_size);
    if (st != HN_OK) goto done;
    HN_TRY_GOTO(st, refuse_ranks(v, argc, argv), done);
    if (v->run == hn_verb_export) HN_TRY_GOTO(st, with_run_options(&argc, argv, &list), done);
    HN_TRY_GOTO(st, hn_run_table(v->groups, m->options, m->n_options, &table), done);
    HN_TRY_GOTO(st, hn_options_parse(table.row, table.n, argc, list ? list : argv, config, &store),
                done);
    if (hn_options_help_wanted(store)) {
        printf("%s %s: %s\n\n", m->program, v->name, v->help);
        hn_options_help(table.row, table.n, stdout);
        st = hn_flush_output();
        goto done;
    }
    if (m->hooks && m->hooks->settle)
        HN_TRY_GOTO(st, m->hooks->settle(config, table.row, table.n, store), done);
    session = (hn_session){
        .method = m, .config = config, .run = config, .given = store, .log = {.line = print_log}};
    st = run(v, &session, &table, &exit_code);
    if (st == HN_OK) st = hn_flush_output();

done:
    if (st != HN_OK) hn_team_say_error(&session.team, st, m->program, v->name);
    hn_team_leave(&session.team, st);
    hn_session_close(&session);
    hn_options_free(store);
    hn_free(table.row);
    if (list != NULL) hn_free(list[1]);
    hn_free(list);
    hn_free(config);
    return st != HN_OK ? hn_status_exit_code(st) : exit_code;
}

void hn_hold_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) /* the least free number: this one */
            (void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

hn_status hn_flush_output(void)
{
    return fflush(stdout) == 0 && !ferror(stdout)
               ? HN_OK
               : HN_FAIL(HN_ERR_WRITE, "writing to standard output");
}

int hn_end_output(const char *program)
{
    const hn_status st = hn_flush_output();
    if (st != HN_OK) fprintf(stderr, "%s: %s\n", program, hn_last_error());
    return hn_status_exit_code(st);
}

/* Threads of libgomp that wait spin for milliseconds before they sleep. Where another program has
 * the other core, one of ours then burns its time while the thread it waits for cannot run: ten
 * steps of a small model took 14.1 s on two busy cores, and 1.9 s with this limit; on idle cores it
 * costs nothing that could be measured. libgomp reads the variable only when the program starts, so
 * the program starts once more. */
void hn_limit_spinning(char **argv)
{
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    if (setenv("GOMP_SPINCOUNT", "3000", 1) == 0) execv("/proc/self/exe", argv);
}

int hn_trainer_main(const hn_method *m, int argc, char **argv)
{
    hn_hold_streams();
    hn_limit_spinning(argv);
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is an error of write(), as a full disk is */
    hn_ranks_drop_local(&argc, argv);
    if (argc < 2) {
        usage(m, stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        usage(m, stdout);
        return hn_end_output(m->program);
    }
    const verb *v = find_verb(m, argv[1]);
    if (v == NULL) return 2;
    return run_verb(m, v, argc - 1, argv + 1);
}
