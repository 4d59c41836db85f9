#define _DEFAULT_SOURCE /* flock */
#include "runtime/file/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/base/save.h"
#include "runtime/file/folder.h"

static const char MARK[] = "COMPLETE", STEM[] = "checkpoint-";
enum { FORMAT = 1 };

/* A file that another process has written. */
typedef struct {
    char *name;
    uint64_t n_bytes;
    char hex[HN_SHA256_HEX];
} known;

struct hn_ckpt {
    hn_folder *folder;
    int64_t step;
    char **paths; /* handed out by hn_ckpt_path */
    int64_t n, cap;
    known *known;
    int64_t n_known, cap_known;
};

static void ckpt_free(hn_ckpt *c)
{
    for (int64_t i = 0; i < c->n; i++) hn_free(c->paths[i]);
    for (int64_t i = 0; i < c->n_known; i++) hn_free(c->known[i].name);
    hn_free(c->paths);
    hn_free(c->known);
    hn_free(c);
}

hn_status hn_ckpt_begin(const char *out_dir, int64_t step, hn_ckpt **out)
{
    hn_status st = HN_OK;
    char *path = NULL;
    hn_ckpt *c = NULL;
    if (step < 0) return HN_FAIL(HN_ERR_ARG, "checkpoint of step %" PRId64, step);
    HN_TRY_GOTO(st, hn_folder_sweep(out_dir, STEM), done);
    path = hn_asprintf("%s/%s%" PRId64, out_dir, STEM, step);
    c = hn_calloc(1, sizeof *c);
    if (path == NULL || c == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for a checkpoint in %s", out_dir);
        goto done;
    }
    c->step = step;
    HN_TRY_GOTO(st, hn_folder_begin(path, &c->folder), done);
    *out = c;
    c = NULL;

done:
    hn_free(path);
    if (c != NULL) ckpt_free(c);
    return st;
}

static bool is_file_name(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && strchr(name, '/') == NULL &&
           strcmp(name, MARK) != 0;
}

static hn_status check_name(const char *name)
{
    if (is_file_name(name)) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "'%s' cannot be a file of a checkpoint", name);
}

const char *hn_ckpt_folder(const hn_ckpt *c) { return hn_folder_temporary(c->folder); }

hn_status hn_ckpt_has(hn_ckpt *c, const char *name, uint64_t n_bytes, const char *hex)
{
    HN_TRY(check_name(name));
    if (strlen(hex) + 1 != HN_SHA256_HEX)
        return HN_FAIL(HN_ERR_ARG, "%s: '%s' is no SHA-256", name, hex);
    HN_TRY(hn_grow(&c->known, &c->cap_known, c->n_known, sizeof *c->known));
    known *k = &c->known[c->n_known];
    *k = (known){.name = hn_strdup(name), .n_bytes = n_bytes};
    memcpy(k->hex, hex, HN_SHA256_HEX);
    if (k->name == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the name %s", name);
    c->n_known++;
    return HN_OK;
}

hn_status hn_ckpt_path(hn_ckpt *c, const char *name, const char **out)
{
    const char *dir = hn_folder_temporary(c->folder);
    HN_TRY(check_name(name));
    HN_TRY(hn_grow(&c->paths, &c->cap, c->n, sizeof *c->paths));
    char *path = hn_asprintf("%s/%s", dir, name);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the path %s/%s", dir, name);
    c->paths[c->n++] = path;
    *out = path;
    return HN_OK;
}

void hn_ckpt_abort(hn_ckpt *c)
{
    if (c == NULL) return;
    hn_folder_abort(c->folder);
    ckpt_free(c);
}

/* The caller may have written a file by other means than hn_saver. */
static hn_status sync_file(const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return HN_FAIL(HN_ERR_IO, "open %s: %s", path, strerror(errno));
    const int failed = fsync(fd);
    const int why = errno;
    close(fd);
    return failed ? HN_FAIL(hn_write_status(why), "fsync %s: %s", path, strerror(why)) : HN_OK;
}

static const known *find_known(const hn_ckpt *c, const char *name)
{
    for (int64_t i = 0; i < c->n_known; i++)
        if (strcmp(c->known[i].name, name) == 0) return &c->known[i];
    return NULL;
}

/* Its writer has flushed it. */
static hn_status take_word(const known *k, const char *path, uint64_t *n_bytes,
                           char hex[HN_SHA256_HEX])
{
    struct stat s;
    if (stat(path, &s) != 0) return HN_FAIL(HN_ERR_IO, "stat %s: %s", path, strerror(errno));
    if ((uint64_t)s.st_size != k->n_bytes)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %" PRIu64 " bytes, its writer says %" PRIu64, path,
                       (uint64_t)s.st_size, k->n_bytes);
    *n_bytes = k->n_bytes;
    memcpy(hex, k->hex, HN_SHA256_HEX);
    return HN_OK;
}

/* One more {"name", "bytes", "sha256"} for a file of the folder. */
static hn_status list_file(const hn_ckpt *c, const char *dir, const char *name, json_t *files)
{
    uint64_t n_bytes = 0;
    char hex[HN_SHA256_HEX];
    const known *k = find_known(c, name);
    char *path = hn_asprintf("%s/%s", dir, name);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to list %s", dir);
    hn_status st = k ? take_word(k, path, &n_bytes, hex) : hn_sha256_file(path, &n_bytes, hex);
    if (st == HN_OK && k == NULL) st = sync_file(path);
    if (st == HN_OK &&
        json_array_append_new(files, json_pack("{s:s, s:I, s:s}", "name", name, "bytes",
                                               (json_int_t)n_bytes, "sha256", hex)) != 0)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to list %s (is the name UTF-8?)", path);
    hn_free(path);
    return st;
}

static bool is_there(char *const *names, int64_t n, const char *name)
{
    for (int64_t i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0) return true;
    return false;
}

static hn_status write_mark(const hn_ckpt *c)
{
    const char *dir = hn_folder_temporary(c->folder);
    hn_status st = HN_OK;
    char **names = NULL, *path = NULL;
    int64_t n = 0;
    json_t *files = json_array(), *mark = NULL;
    HN_TRY_GOTO(st, hn_folder_names(dir, &names, &n), done);
    for (int64_t i = 0; i < c->n_known && st == HN_OK; i++)
        if (!is_there(names, n, c->known[i].name))
            st = HN_FAIL(HN_ERR_FORMAT, "%s/%s: its writer has it, this process does not see it",
                         dir, c->known[i].name);
    for (int64_t i = 0; i < n && st == HN_OK; i++) st = list_file(c, dir, names[i], files);
    if (st != HN_OK) goto done;
    mark =
        json_pack("{s:i, s:I, s:O}", "format", FORMAT, "step", (json_int_t)c->step, "files", files);
    path = hn_asprintf("%s/%s", dir, MARK);
    if (mark == NULL || path == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to complete %s", dir);
    else
        st = hn_json_save(path, mark, false);

done:
    hn_free(path);
    json_decref(mark);
    json_decref(files);
    hn_folder_names_free(names, n);
    return st;
}

hn_status hn_ckpt_commit(hn_ckpt *c)
{
    hn_status st = write_mark(c);
    if (st == HN_OK)
        st = hn_folder_commit(c->folder, true);
    else
        hn_folder_abort(c->folder);
    ckpt_free(c);
    return st;
}

/* One entry of COMPLETE against the file it names. */
static hn_status verify_file(const char *dir, const json_t *entry, const char *where)
{
    const char *name = NULL, *wanted = NULL;
    int64_t wanted_bytes = 0;
    uint64_t n_bytes = 0;
    char hex[HN_SHA256_HEX];
    HN_TRY(hn_json_get_text(entry, "name", where, true, &name));
    HN_TRY(hn_json_get_i64(entry, "bytes", where, 0, INT64_MAX, true, &wanted_bytes));
    HN_TRY(hn_json_get_text(entry, "sha256", where, true, &wanted));
    if (!is_file_name(name))
        return HN_FAIL(HN_ERR_FORMAT, "%s: '%.200s' cannot be a file of a checkpoint", where, name);
    char *path = hn_asprintf("%s/%s", dir, name);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to check %s", dir);
    hn_status st = HN_OK;
    if (!hn_is_file(path))
        st = HN_FAIL(HN_ERR_FORMAT, "%s: listed in %s, but missing", path, MARK);
    else
        st = hn_sha256_file(path, &n_bytes, hex);
    if (st == HN_OK && n_bytes != (uint64_t)wanted_bytes)
        st = HN_FAIL(HN_ERR_FORMAT, "%s: %" PRIu64 " bytes, %s says %" PRId64, path, n_bytes, MARK,
                     wanted_bytes);
    else if (st == HN_OK && strcmp(hex, wanted) != 0)
        st = HN_FAIL(HN_ERR_FORMAT, "%s: SHA-256 is not the one in %s", path, MARK);
    hn_free(path);
    return st;
}

static bool is_listed(const json_t *files, const char *name)
{
    size_t i;
    const json_t *entry;
    json_array_foreach(files, i, entry)
    {
        const char *listed = json_string_value(json_object_get(entry, "name"));
        if (listed != NULL && strcmp(listed, name) == 0) return true;
    }
    return false;
}

static hn_status verify_list(const char *dir, const json_t *mark, const char *where)
{
    int64_t format = 0, n = 0;
    HN_TRY(hn_json_get_i64(mark, "format", where, FORMAT, FORMAT, true, &format));
    const json_t *files = json_object_get(mark, "files");
    if (!json_is_array(files))
        return HN_FAIL(HN_ERR_FORMAT, "%s: key 'files' is missing or not an array", where);
    for (size_t i = 0; i < json_array_size(files); i++)
        HN_TRY(verify_file(dir, json_array_get(files, i), where));
    char **names = NULL;
    hn_status st = HN_OK;
    HN_TRY(hn_folder_names(dir, &names, &n));
    for (int64_t i = 0; i < n && st == HN_OK; i++)
        if (strcmp(names[i], MARK) != 0 && !is_listed(files, names[i]))
            st = HN_FAIL(HN_ERR_FORMAT, "%s/%s: not listed in %s", dir, names[i], MARK);
    hn_folder_names_free(names, n);
    return st;
}

hn_status hn_ckpt_verify(const char *dir)
{
    json_t *mark = NULL;
    hn_status st = HN_OK;
    char *path = hn_asprintf("%s/%s", dir, MARK);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to check %s", dir);
    if (!hn_is_file(path)) {
        st = HN_FAIL(HN_ERR_FORMAT, "%s: incomplete, it has no file %s", dir, MARK);
        goto done;
    }
    HN_TRY_GOTO(st, hn_json_load(path, &mark), done);
    st = verify_list(dir, mark, path);

done:
    json_decref(mark);
    hn_free(path);
    return st;
}

/* ---- the checkpoints of an out folder ---- */

static int newest_first(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* The step in "checkpoint-<step>", spelled as we spell it; -1 for another name. */
static int64_t step_of(const char *name)
{
    if (strncmp(name, STEM, sizeof STEM - 1) != 0) return -1;
    const char *digits = name + sizeof STEM - 1;
    char *end;
    if (*digits < '0' || *digits > '9' || (*digits == '0' && digits[1] != '\0')) return -1;
    errno = 0;
    const long long step = strtoll(digits, &end, 10);
    return *end == '\0' && errno == 0 ? (int64_t)step : -1;
}

/* Steps of all folders called checkpoint-<step>, newest first; none when out_dir is missing. */
static hn_status list_steps(const char *out_dir, int64_t **steps, int64_t *n)
{
    char **names = NULL;
    int64_t n_names = 0, count = 0;
    if (hn_is_folder(out_dir)) HN_TRY(hn_folder_names(out_dir, &names, &n_names));
    int64_t *list = hn_calloc((size_t)n_names, sizeof *list);
    if (list != NULL) {
        for (int64_t i = 0; i < n_names; i++)
            if (step_of(names[i]) >= 0) list[count++] = step_of(names[i]);
        qsort(list, (size_t)count, sizeof *list, newest_first);
        *steps = list;
        *n = count;
    }
    hn_folder_names_free(names, n_names);
    return list ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory to list %s", out_dir);
}

hn_status hn_ckpt_newest(const char *out_dir, const hn_log *log, char **path, int64_t *step)
{
    int64_t *steps = NULL, n = 0;
    HN_TRY(list_steps(out_dir, &steps, &n));
    hn_status st = HN_OK;
    char *dir = NULL;
    int64_t i = 0;
    for (; i < n; i++) {
        dir = hn_asprintf("%s/%s%" PRId64, out_dir, STEM, steps[i]);
        if (dir == NULL) {
            st = HN_FAIL(HN_ERR_MEMORY, "no memory to search %s", out_dir);
            goto done;
        }
        st = hn_ckpt_verify(dir);
        if (st == HN_OK) break;
        if (st == HN_ERR_MEMORY) goto done;
        hn_warn(log, "skipping %s: %s", dir, hn_last_error());
        hn_free(dir);
        dir = NULL;
        st = HN_OK;
    }
    *path = dir;
    if (step != NULL) *step = dir != NULL ? steps[i] : -1;
    dir = NULL;

done:
    hn_free(dir);
    hn_free(steps);
    return st;
}

/* Out of sight in one step, then the files: a kill between leaves a temporary folder, which the
 * next hn_ckpt_begin removes, and nothing that looks like a checkpoint. */
static hn_status remove_checkpoint(const char *out_dir, int64_t step)
{
    hn_status st = HN_OK;
    char *dir = hn_asprintf("%s/%s%" PRId64, out_dir, STEM, step);
    char *doomed = hn_asprintf("%s/.%s%" PRId64 ".tmp-%ld", out_dir, STEM, step, (long)getpid());
    if (dir == NULL || doomed == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to remove a checkpoint of %s", out_dir);
        goto done;
    }
    HN_TRY_GOTO(st, hn_remove_tree(doomed), done);
    if (rename(dir, doomed) != 0) {
        st = HN_FAIL(hn_write_status(errno), "remove %s: %s", dir, strerror(errno));
        goto done;
    }
    st = hn_remove_tree(doomed);

done:
    hn_free(doomed);
    hn_free(dir);
    return st;
}

static hn_status has_mark(const char *out_dir, int64_t step, bool *out)
{
    char *mark = hn_asprintf("%s/%s%" PRId64 "/%s", out_dir, STEM, step, MARK);
    if (mark == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to search %s", out_dir);
    *out = hn_is_file(mark);
    hn_free(mark);
    return HN_OK;
}

hn_status hn_ckpt_prune(const char *out_dir, int64_t keep_n, const char *protected_path)
{
    if (keep_n < 1) return HN_FAIL(HN_ERR_ARG, "keep %" PRId64 " checkpoints, at least 1", keep_n);
    const char *slash = protected_path ? strrchr(protected_path, '/') : NULL;
    const char *name = slash ? slash + 1 : protected_path;
    const int64_t protected_step = name ? step_of(name) : -1;
    int64_t *steps = NULL, n = 0, seen = 0;
    HN_TRY(list_steps(out_dir, &steps, &n));
    hn_status st = HN_OK;
    for (int64_t i = 0; i < n && st == HN_OK; i++) {
        bool complete = false;
        st = has_mark(out_dir, steps[i], &complete);
        if (st != HN_OK || !complete) continue;
        if (seen++ < keep_n || steps[i] == protected_step) continue;
        st = remove_checkpoint(out_dir, steps[i]);
    }
    if (st == HN_OK && seen > keep_n) st = hn_sync_dir(out_dir);
    hn_free(steps);
    return st;
}

/* ---- the lock of an out folder ---- */

struct hn_outdir {
    int fd;
};

hn_status hn_outdir_lock(const char *out_dir, hn_outdir **out)
{
    hn_status st = HN_OK;
    int fd = -1;
    char *path = hn_asprintf("%s/.lock", out_dir);
    hn_outdir *lock = hn_calloc(1, sizeof *lock);
    if (path == NULL || lock == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to lock %s", out_dir);
        goto done;
    }
    HN_TRY_GOTO(st, hn_make_dirs(out_dir), done);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        st = HN_FAIL(hn_write_status(errno), "open %s: %s", path, strerror(errno));
        goto done;
    }
    char holder[32] = "";
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK)
            st = HN_FAIL(HN_ERR_IO, "lock %s: %s", path, strerror(errno));
        else if (read(fd, holder, sizeof holder - 1) <= 0)
            st = HN_FAIL(HN_ERR_IO, "out folder %s is in use by another process", out_dir);
        else
            st = HN_FAIL(HN_ERR_IO, "out folder %s is in use by process %ld", out_dir,
                         strtol(holder, NULL, 10));
        goto done;
    }
    const int n = snprintf(holder, sizeof holder, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) != 0 || write(fd, holder, (size_t)n) != n) {
        st = HN_FAIL(hn_write_status(errno), "write %s: %s", path, strerror(errno));
        goto done;
    }
    lock->fd = fd;
    fd = -1;
    *out = lock;
    lock = NULL;

done:
    if (fd >= 0) close(fd);
    hn_free(lock);
    hn_free(path);
    return st;
}

void hn_outdir_unlock(hn_outdir *lock)
{
    if (lock == NULL) return;
    close(lock->fd);
    hn_free(lock);
}
