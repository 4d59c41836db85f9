#define _POSIX_C_SOURCE 200809L
#include "runtime/train/run_folder.h"

#include <string.h>
#include <time.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"

static bool names_a_folder(const char *resume)
{
    return resume[0] != '\0' && strcmp(resume, "auto") != 0;
}

hn_status hn_run_folder_choose(const char *program, const char *out, const char *resume,
                               char **path)
{
    char date[32];
    const time_t now = (time_t)hn_clock_wall_s();
    struct tm parts;
    localtime_r(&now, &parts);
    strftime(date, sizeof date, "%Y%m%d-%H%M%S", &parts);
    const bool folder = names_a_folder(resume);
    if (folder && out[0] != '\0' && strcmp(out, resume) != 0)
        return HN_FAIL(HN_ERR_ARG, "--resume %s and --out %s: a run goes on in its own folder",
                       resume, out);
    const char *name = folder ? resume : out;
    *path = name[0] ? hn_strdup(name) : hn_asprintf("runs/%s-%s", program, date);
    return *path ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the out folder's name");
}

hn_status hn_run_folder_check(const char *path, const char *resume, bool there)
{
    if (there && resume[0] == '\0')
        return HN_FAIL(HN_ERR_ARG,
                       "--out %s holds a run; continue it with --resume auto or choose another "
                       "folder",
                       path);
    if (!there && names_a_folder(resume))
        return HN_FAIL(HN_ERR_ARG, "--resume %s: there is no run (index.json)", resume);
    return HN_OK;
}
