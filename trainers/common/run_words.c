#include "trainers/common/run_words.h"

#include <string.h>

#include "runtime/base/alloc.h"

/* The value of --run on the command line; NULL without one. A bare "run" is another option's. */
static const char *run_of(int argc, char *const *argv)
{
    const char *run = NULL;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (strcmp(word, "--run") == 0 && i + 1 < argc) {
            run = argv[++i];
            continue;
        }
        if (strncmp(word, "--", 2) == 0) word += 2;
        if (strncmp(word, "run=", 4) == 0) run = word + 4;
    }
    return run;
}

hn_status hn_run_words(int *argc, char *const *argv, char ***list)
{
    const char *run = run_of(*argc, argv);
    if (run == NULL) return HN_OK;
    char *option = hn_asprintf("--config=%s/run.yaml", run);
    char **words = hn_malloc(((size_t)*argc + 1) * sizeof *words);
    if (option == NULL || words == NULL) {
        hn_free(option);
        hn_free(words);
        return HN_FAIL(HN_ERR_MEMORY, "no memory for the options of %s", run);
    }
    words[0] = argv[0];
    words[1] = option;
    memcpy(words + 2, argv + 1, ((size_t)*argc - 1) * sizeof *words);
    ++*argc;
    *list = words;
    return HN_OK;
}

void hn_run_words_free(char **list)
{
    if (list != NULL) hn_free(list[1]);
    hn_free(list);
}
