#define _GNU_SOURCE /* renameat2 */
#include "runtime/file/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/alloc.h"
#include "runtime/base/mapfile.h"
#include "runtime/base/save.h"

struct hn_folder {
    char *path, *parent, *temporary;
};

static void folder_free(hn_folder *f)
{
    hn_free(f->path);
    hn_free(f->parent);
    hn_free(f->temporary);
    hn_free(f);
}

bool hn_is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool hn_is_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

void hn_folder_names_free(char **names, int64_t n)
{
    for (int64_t i = 0; i < n; i++) hn_free(names[i]);
    hn_free(names);
}

static int in_byte_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

hn_status hn_folder_names(const char *path, char ***names, int64_t *n)
{
    hn_status st = HN_OK;
    char **list = NULL;
    int64_t count = 0, cap = 0;
    DIR *dir = opendir(path);
    if (dir == NULL) return HN_FAIL(HN_ERR_IO, "open folder %s: %s", path, strerror(errno));
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(dir);
        if (e == NULL) break;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        HN_TRY_GOTO(st, hn_grow(&list, &cap, count, sizeof *list), done);
        list[count] = hn_strdup(e->d_name);
        if (list[count] == NULL) {
            st = HN_FAIL(HN_ERR_MEMORY, "no memory for the names in %s", path);
            goto done;
        }
        count++;
    }
    if (errno != 0) {
        st = HN_FAIL(HN_ERR_IO, "read folder %s: %s", path, strerror(errno));
        goto done;
    }
    if (count > 0) qsort(list, (size_t)count, sizeof *list, in_byte_order);
    *names = list;
    *n = count;
    list = NULL;
    count = 0;

done:
    hn_folder_names_free(list, count);
    closedir(dir);
    return st;
}

hn_status hn_copy_file(const char *from, const char *to)
{
    hn_mapfile map = {0};
    HN_TRY(hn_mapfile_open(from, &map));
    const hn_status st = hn_save_file(to, map.data, map.size);
    hn_mapfile_close(&map);
    return st;
}

/* ".<prefix...>.tmp-<pid>" of a process that is no more. */
static bool is_stale(const char *name, const char *prefix)
{
    const char *mark = NULL;
    if (name[0] != '.' || strncmp(name + 1, prefix, strlen(prefix)) != 0) return false;
    for (const char *p = strstr(name, ".tmp-"); p != NULL; p = strstr(p + 1, ".tmp-")) mark = p;
    if (mark == NULL) return false;
    char *end;
    const long pid = strtol(mark + 5, &end, 10);
    return pid > 0 && *end == '\0' && pid != (long)getpid() && kill((pid_t)pid, 0) != 0 &&
           errno == ESRCH;
}

hn_status hn_folder_sweep(const char *parent, const char *prefix)
{
    hn_status st = HN_OK;
    char **names = NULL;
    int64_t n = 0;
    if (!hn_is_folder(parent)) return HN_OK;
    HN_TRY(hn_folder_names(parent, &names, &n));
    for (int64_t i = 0; i < n && st == HN_OK; i++) {
        if (!is_stale(names[i], prefix)) continue;
        char *path = hn_asprintf("%s/%s", parent, names[i]);
        st = path ? hn_remove_tree(path) : HN_FAIL(HN_ERR_MEMORY, "no memory to clear %s", parent);
        hn_free(path);
    }
    hn_folder_names_free(names, n);
    return st;
}

/* Splits path into parent and name and makes up the temporary name. */
static hn_status name_parts(hn_folder *f, const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    f->path = hn_strndup(path, n);
    if (f->path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the path %s", path);
    const char *slash = strrchr(f->path, '/'), *name = slash ? slash + 1 : f->path;
    if (*name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return HN_FAIL(HN_ERR_ARG, "'%s' cannot be the name of a new folder", path);
    if (slash == NULL)
        f->parent = hn_strdup(".");
    else
        f->parent = hn_strndup(f->path, slash == f->path ? 1 : (size_t)(slash - f->path));
    if (f->parent != NULL)
        f->temporary = hn_asprintf("%s/.%s.tmp-%ld", f->parent, name, (long)getpid());
    if (f->temporary == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the path %s", path);
    return HN_OK;
}

hn_status hn_folder_begin(const char *path, hn_folder **out)
{
    hn_folder *f = hn_calloc(1, sizeof *f);
    if (f == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the path %s", path);
    hn_status st;
    HN_TRY_GOTO(st, name_parts(f, path), done);
    HN_TRY_GOTO(st, hn_make_dirs(f->parent), done);
    const char *slash = strrchr(f->path, '/');
    HN_TRY_GOTO(st, hn_folder_sweep(f->parent, slash ? slash + 1 : f->path), done);
    HN_TRY_GOTO(st, hn_remove_tree(f->temporary), done); /* of an earlier process with our pid */
    if (mkdir(f->temporary, 0777) != 0) {
        st = HN_FAIL(hn_write_status(errno), "create folder %s: %s", f->temporary, strerror(errno));
        goto done;
    }
    *out = f;
    f = NULL;

done:
    if (f != NULL) folder_free(f);
    return st;
}

const char *hn_folder_temporary(const hn_folder *f) { return f->temporary; }

const char *hn_folder_path(const hn_folder *f) { return f->path; }

/* Puts the temporary folder in the place of one with content. */
static hn_status exchange(const hn_folder *f)
{
    if (renameat2(AT_FDCWD, f->temporary, AT_FDCWD, f->path, RENAME_EXCHANGE) == 0) {
        HN_TRY(hn_sync_dir(f->parent));
        return hn_remove_tree(f->temporary);
    }
    if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP)
        return HN_FAIL(hn_write_status(errno), "exchange %s and %s: %s", f->temporary, f->path,
                       strerror(errno));
    /* The file system cannot exchange: for a moment neither name is there. */
    char *old = hn_asprintf("%s.old", f->temporary);
    if (old == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to replace %s", f->path);
    hn_status st = HN_OK;
    if (rename(f->path, old) != 0) {
        st = HN_FAIL(hn_write_status(errno), "rename %s: %s", f->path, strerror(errno));
    } else if (rename(f->temporary, f->path) != 0) {
        st = HN_FAIL(hn_write_status(errno), "rename %s to %s: %s", f->temporary, f->path,
                     strerror(errno));
        if (rename(old, f->path) != 0) /* keep the first error; the old one stays under its name */
            st = HN_FAIL(st, "%s; the old folder is now %s", hn_last_error(), old);
    } else {
        st = hn_sync_dir(f->parent);
        if (st == HN_OK) st = hn_remove_tree(old);
    }
    hn_free(old);
    return st;
}

hn_status hn_folder_commit(hn_folder *f, bool replace)
{
    hn_status st;
    HN_TRY_GOTO(st, hn_sync_dir(f->temporary), done);
    if (rename(f->temporary, f->path) == 0)
        st = hn_sync_dir(f->parent);
    else if (replace && (errno == ENOTEMPTY || errno == EEXIST))
        st = exchange(f);
    else
        st =
            HN_FAIL(hn_write_status(errno), "cannot write folder %s: %s", f->path, strerror(errno));

done:
    if (st != HN_OK) {
        hn_folder_abort(f);
        return st;
    }
    folder_free(f);
    return st;
}

void hn_folder_abort(hn_folder *f)
{
    if (f == NULL) return;
    /* Nothing to report: what is left is swept when the folder is written again. */
    const hn_status ignored = hn_remove_tree(f->temporary);
    (void)ignored;
    folder_free(f);
}
