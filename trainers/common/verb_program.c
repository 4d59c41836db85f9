#include "trainers/common/verb_program.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/nearest.h"
#include "runtime/comm/ranks.h"
#include "runtime/train/cli.h"
#include "trainers/common/run_words.h"

static void print_log(void *context, hn_log_level level, const char *text)
{
    (void)context;
    fprintf(stderr, "%s%s\n", level == HN_LOG_WARN ? "warning: " : "", text);
}

static void usage(const hn_verb_program *p, FILE *to)
{
    fprintf(to, "%s: %s\n\nusage: %s VERB [--config FILE.yaml] [--option value] [option=value]\n\n",
            p->name, p->summary, p->name);
    int width = 0;
    for (int i = 0; i < p->n_verbs; i++) {
        const int n = (int)strlen(p->verb[i].name);
        if (n > width) width = n;
    }
    for (int i = 0; i < p->n_verbs; i++)
        fprintf(to, "  %-*s  %s\n", width, p->verb[i].name, p->verb[i].help);
    fprintf(to, "\n%s VERB --help lists the options of a verb\n", p->name);
}

static const hn_verb *find_verb(const hn_verb_program *p, const char *name)
{
    enum { MAX_VERBS = 32 };
    const char *names[MAX_VERBS];
    size_t n = 0;
    for (int i = 0; i < p->n_verbs && n < MAX_VERBS; i++) {
        if (strcmp(name, p->verb[i].name) == 0) return &p->verb[i];
        names[n++] = p->verb[i].name;
    }
    const char *near = hn_nearest(name, names, n);
    fprintf(stderr, "%s: no verb '%s'%s%s%s; %s --help lists them\n", p->name, name,
            near ? ", did you mean '" : "", near ? near : "", near ? "'" : "", p->name);
    return NULL;
}

static bool is_of_call(const hn_verb_program *p, const char *option)
{
    for (const char *const *name = p->of_call; name != NULL && *name != NULL; name++)
        if (strcmp(option, *name) == 0) return true;
    return false;
}

/* The rows of some groups; with a config, only those that a record of it has. */
static size_t collect(const hn_verb_program *p, unsigned groups, const void *config, hn_option *row)
{
    size_t n = 0;
    for (int g = 0; g < p->n_groups; g++) {
        if ((groups >> g & 1u) == 0) continue;
        for (size_t i = 0; i < p->group[g].n; i++) {
            const hn_option *r = &p->group[g].row[i];
            if (config != NULL && r->name != NULL &&
                (p->reason(config, r->name) != NULL || is_of_call(p, r->name)))
                continue;
            row[n++] = *r;
        }
    }
    return n;
}

static hn_team_request request_of(const hn_verb_program *p, const void *config,
                                  const hn_options_store *given)
{
    const char *const base = config;
    const hn_verb_team *t = p->team;
    if (t == NULL) return (hn_team_request){0};
    return (hn_team_request){.options = (const void *)(base + t->options),
                             .given = given,
                             .device = *(const char *const *)(const void *)(base + t->device),
                             .threads = *(const int64_t *)(const void *)(base + t->threads)};
}

/* row: room for the rows of the record. *exit_code: of ranks that this process has waited for. */
static hn_status call(const hn_verb_program *p, const hn_verb *v, const void *config,
                      const hn_options_store *given, hn_option *row, hn_team *team, int *exit_code)
{
    const hn_team_request q = request_of(p, config, given);
    hn_log log = {.line = print_log};
    bool go_on = true;
    char *yaml = NULL;
    team->request = q;
    if (v->ranks) HN_TRY(hn_team_start(team, &q, &log, &go_on, exit_code));
    if (!go_on) return HN_OK;
    HN_TRY(hn_options_yaml(row, collect(p, p->recorded, config, row), config, &yaml));
    const hn_verb_call c = {
        .config = config, .given = given, .yaml = yaml, .log = log, .to = stdout, .team = team};
    hn_status st = v->run(&c);
    if (st == HN_OK) st = hn_flush_output();
    hn_free(yaml);
    return st;
}

/* Returns the exit code. */
static int run_verb(const hn_verb_program *p, const hn_verb *v, int argc, char *const *argv)
{
    size_t most = 0, n;
    int exit_code = 0;
    for (int g = 0; g < p->n_groups; g++) most += p->group[g].n;
    hn_option *row = hn_calloc(2 * most, sizeof *row); /* the store reads the verb's rows later */
    void *config = hn_calloc(1, p->config_size);
    hn_options_store *store = NULL;
    hn_team team = {0};
    char **list = NULL;
    hn_status st = row && config ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the options");
    if (st != HN_OK) goto done;
    n = collect(p, v->groups, NULL, row);
    if (v->of_run) HN_TRY_GOTO(st, hn_run_words(&argc, argv, &list), done);
    HN_TRY_GOTO(st, hn_options_parse(row, n, argc, list ? list : argv, config, &store), done);
    if (hn_options_help_wanted(store)) {
        printf("%s %s: %s\n\n", p->name, v->name, v->help);
        hn_options_help(row, n, stdout);
        st = hn_flush_output();
    } else {
        st = call(p, v, config, store, row + most, &team, &exit_code);
    }

done:
    if (st != HN_OK) hn_team_say_error(&team, st, p->name, v->name);
    hn_team_leave(&team, st);
    hn_team_close(&team);
    hn_options_free(store);
    hn_run_words_free(list);
    hn_free(config);
    hn_free(row);
    return st != HN_OK ? hn_status_exit_code(st) : exit_code;
}

int hn_verb_program_main(const hn_verb_program *p, int argc, char **argv)
{
    hn_hold_streams();
    hn_limit_spinning(argv);
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is an error of write(), as a full disk is */
    hn_ranks_drop_local(&argc, argv);
    if (argc < 2) {
        usage(p, stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        usage(p, stdout);
        return hn_end_output(p->name);
    }
    const hn_verb *v = find_verb(p, argv[1]);
    if (v == NULL) return 2;
    return run_verb(p, v, argc - 1, argv + 1);
}
