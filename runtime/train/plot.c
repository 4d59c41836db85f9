#define _POSIX_C_SOURCE 200809L
#include "runtime/train/plot.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/base/alloc.h"

extern char **environ;

void hn_plot_text(FILE *script, const char *text)
{
    for (const char *c = text; *c; c++) {
        if (*c == '\'') fputc('\'', script);
        fputc(*c, script);
    }
}

/* 0: it ended well. A signal meant for this program, such as Ctrl-C, may come while it waits. */
static int wait_for(pid_t pid)
{
    int status = 1;
    pid_t got;
    do got = waitpid(pid, &status, 0);
    while (got == -1 && errno == EINTR);
    return got == pid ? status : 1;
}

hn_status hn_plot_run(const char *script, bool *drawn)
{
    char *path = hn_strdup(script);
    char *const argv[] = {(char *)"gnuplot", path, NULL};
    posix_spawn_file_actions_t quiet;
    pid_t pid;
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to draw");
    posix_spawn_file_actions_init(&quiet);
    posix_spawn_file_actions_addopen(&quiet, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&quiet, STDOUT_FILENO, STDERR_FILENO);
    const bool started = posix_spawnp(&pid, "gnuplot", &quiet, NULL, argv, environ) == 0;
    posix_spawn_file_actions_destroy(&quiet);
    hn_free(path);
    *drawn = started && wait_for(pid) == 0;
    return HN_OK;
}
