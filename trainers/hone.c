/* hone: `hone lora train ...` runs `hone-lora train ...` from its own folder, else from PATH. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/nearest.h"
#include "runtime/base/version.h"
#include "runtime/comm/ranks.h"
#include "runtime/train/cli.h"

static const char *const methods[][2] = {
    {"lora", "low-rank adapters"},
    {"full", "every weight"},
    {"sparse", "chosen blocks of the weights"},
    {"pearl", "continual learning, task by task"},
    {"fedref", "federated training, simulated"},
    {"hyperflow", "few-shot adaptation without gradients"},
};
enum { N_METHODS = sizeof methods / sizeof *methods };

static void usage(FILE *to)
{
    fprintf(to,
            "hone %s: fine-tuning of pretrained networks\n\nusage: hone METHOD VERB [options]\n\n",
            HN_VERSION);
    for (int i = 0; i < N_METHODS; i++) fprintf(to, "  %-7s %s\n", methods[i][0], methods[i][1]);
    fprintf(to, "\nhone METHOD --help lists the verbs of a method\n");
}

int main(int argc, char **argv)
{
    hn_ranks_drop_local(&argc, argv); /* it stands before the method */
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        usage(stdout);
        return hn_end_output("hone");
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("hone %s\n", HN_VERSION);
        return hn_end_output("hone");
    }
    const char *names[N_METHODS];
    int known = 0;
    for (int i = 0; i < N_METHODS; i++) {
        names[i] = methods[i][0];
        known |= strcmp(argv[1], names[i]) == 0;
    }
    if (!known) {
        const char *near = hn_nearest(argv[1], names, N_METHODS);
        fprintf(stderr, "hone: no method '%s'%s%s%s; hone --help lists them\n", argv[1],
                near ? ", did you mean '" : "", near ? near : "", near ? "'" : "");
        return 2;
    }
    char self[PATH_MAX], program[PATH_MAX + 64];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0) {
        self[n] = '\0';
        char *slash = strrchr(self, '/');
        snprintf(program, sizeof program, "%.*s/hone-%s", (int)(slash - self), self, argv[1]);
        execv(program, argv + 1);
    }
    snprintf(program, sizeof program, "hone-%s", argv[1]);
    execvp(program, argv + 1);
    fprintf(stderr, "hone: cannot run %s: %s\n", program, strerror(errno));
    return 1;
}
