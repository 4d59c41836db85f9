#define _POSIX_C_SOURCE 200809L
#include "runtime/train/plot.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/base/alloc.h"

extern char **environ;

hn_status hn_plot_run(const char *script, bool *drawn)
{
    char *path = hn_strdup(script);
    char *const argv[] = {(char *)"gnuplot", path, NULL};
    posix_spawn_file_actions_t quiet;
    pid_t pid;
    int status = 1;
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to draw");
    posix_spawn_file_actions_init(&quiet);
    posix_spawn_file_actions_addopen(&quiet, STDERR_FILENO, "/dev/null", 1, 0);
    const bool started = posix_spawnp(&pid, "gnuplot", &quiet, NULL, argv, environ) == 0;
    posix_spawn_file_actions_destroy(&quiet);
    hn_free(path);
    *drawn = started && waitpid(pid, &status, 0) == pid && status == 0;
    return HN_OK;
}
