/* Writing a model directory: copies of what is not weights, then the weights. */
#define _DEFAULT_SOURCE
#include <dirent.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/file/folder.h"
#include "runtime/file/model_dir.h"

enum { MAX_DEPTH = 8, MAX_SHARDS = 99999 };

/* Weights in any format would be stale beside the new ones, and an adapter_config.json would make
 * other tools look for an adapter. Other .bin files may be tokenizers: they are copied. */
static bool is_left_out(const char *name)
{
    static const char *const patterns[] = {
        "*.safetensors",
        "*.safetensors.index.json",
        "pytorch_model*.bin*",
        "adapter_model.bin",
        "adapter_config.json",
        "*.pt",
        "*.pth",
        "*.ckpt",
        "*.h5",
        "*.msgpack",
        "*.gguf",
        "*.onnx",
        "*.onnx_data",
        "*.tflite",
        "*.npz",
        "optimizer.bin",
        "training_args.bin",
        "*.tmp-*",
    };
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
        if (fnmatch(patterns[i], name, 0) == 0) return true;
    return false;
}

/* Weights that the new ones take the place of: nothing to tell. */
static bool is_replaced(const char *name) { return fnmatch("model*.safetensors*", name, 0) == 0; }

/* Copies a folder's content into `to`, which is created when something goes there. */
static hn_status copy_folder(const char *from, const char *to, int depth, const hn_log *log)
{
    hn_status st = HN_OK;
    char **names = NULL, *source = NULL, *target = NULL;
    int64_t n = 0;
    HN_TRY(hn_folder_names(from, &names, &n));
    for (int64_t i = 0; i < n; i++) {
        source = hn_asprintf("%s/%s", from, names[i]);
        target = hn_asprintf("%s/%s", to, names[i]);
        if (source == NULL || target == NULL) {
            st = HN_FAIL(HN_ERR_MEMORY, "no memory to copy %s", from);
            goto done;
        }
        const bool folder = hn_is_folder(source);
        if (folder && (names[i][0] == '.' || depth == MAX_DEPTH)) {
            hn_info(log, "not copied: folder %s", source);
        } else if (folder) {
            HN_TRY_GOTO(st, copy_folder(source, target, depth + 1, log), done);
        } else if (is_left_out(names[i]) || !hn_is_file(source)) {
            if (depth > 0 || !is_replaced(names[i])) hn_info(log, "not copied: %s", source);
        } else {
            HN_TRY_GOTO(st, hn_make_dirs(to), done);
            HN_TRY_GOTO(st, hn_copy_file(source, target), done);
        }
        hn_free(source);
        hn_free(target);
        source = target = NULL;
    }

done:
    hn_free(source);
    hn_free(target);
    hn_folder_names_free(names, n);
    return st;
}

/* ---- weights ---- */

/* Cuts the entries into runs of at most `limit` bytes (a larger tensor has a shard of its own).
 * first    [n + 1] out: shard s holds the entries first[s] .. first[s + 1] - 1 */
static hn_status cut(const hn_st_entry *entries, int64_t n, uint64_t limit, const char *path,
                     int64_t *first, int64_t *n_shards, uint64_t *total)
{
    uint64_t in_shard = 0;
    int64_t shards = 0;
    *total = 0;
    for (int64_t i = 0; i < n; i++) {
        uint64_t n_bytes = 0;
        HN_TRY(hn_st_entry_bytes(&entries[i], path, &n_bytes));
        if (i == 0 || (in_shard > 0 && in_shard + n_bytes > limit)) {
            first[shards++] = i;
            in_shard = 0;
        }
        in_shard += n_bytes;
        *total += n_bytes;
    }
    first[shards] = n;
    *n_shards = shards;
    if (shards > MAX_SHARDS)
        return HN_FAIL(HN_ERR_ARG, "%s: %" PRId64 " shards, at most %d", path, shards, MAX_SHARDS);
    return HN_OK;
}

static hn_status write_shard(const char *dir, const char *name, const hn_st_entry *entries,
                             int64_t n, json_t *map)
{
    static const char *const pt[][2] = {{"format", "pt"}};
    for (int64_t i = 0; i < n; i++) {
        if (json_object_get(map, entries[i].name) != NULL)
            return HN_FAIL(HN_ERR_ARG, "%s: two tensors are called '%.200s'", dir, entries[i].name);
        if (json_object_set_new(map, entries[i].name, json_string(name)) != 0)
            return HN_FAIL(HN_ERR_MEMORY, "no memory for the index of %s", dir);
    }
    char *path = hn_asprintf("%s/%s", dir, name);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", dir);
    const hn_status st = hn_st_save(path, entries, n, pt, 1, NULL, NULL);
    hn_free(path);
    return st;
}

static hn_status write_index(const char *dir, json_t *map, uint64_t total)
{
    hn_status st;
    json_t *index =
        json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    char *path = hn_asprintf("%s/model.safetensors.index.json", dir);
    if (index == NULL || path == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for the index of %s", dir);
    else
        st = hn_json_save(path, index, true);
    hn_free(path);
    json_decref(index);
    return st;
}

static hn_status write_shards(const char *dir, const hn_st_entry *entries, int64_t n,
                              uint64_t limit)
{
    hn_status st = HN_OK;
    int64_t n_shards = 0;
    uint64_t total = 0;
    json_t *map = json_object();
    char *name = NULL;
    int64_t *first = hn_calloc((size_t)n + 1, sizeof *first);
    if (map == NULL || first == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", dir);
        goto done;
    }
    HN_TRY_GOTO(st, cut(entries, n, limit, dir, first, &n_shards, &total), done);
    for (int64_t s = 0; s < n_shards; s++) {
        hn_free(name);
        name = hn_asprintf("model-%05" PRId64 "-of-%05" PRId64 ".safetensors", s + 1, n_shards);
        if (name == NULL) {
            st = HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", dir);
            goto done;
        }
        HN_TRY_GOTO(st, write_shard(dir, name, entries + first[s], first[s + 1] - first[s], map),
                    done);
    }
    st = write_index(dir, map, total);

done:
    hn_free(name);
    hn_free(first);
    json_decref(map);
    return st;
}

static hn_status write_weights(const hn_model_dir *src, const char *dir, const hn_st_entry *entries,
                               int64_t n)
{
    static const char *const pt[][2] = {{"format", "pt"}};
    const uint64_t limit = hn_model_dir_shard_bytes(src);
    if (limit > 0) return write_shards(dir, entries, n, limit);
    char *path = hn_asprintf("%s/model.safetensors", dir);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", dir);
    const hn_status st = hn_st_save(path, entries, n, pt, 1, NULL, NULL);
    hn_free(path);
    return st;
}

static hn_status check_target(const char *out_dir)
{
    char **names = NULL;
    int64_t n = 0;
    struct stat info;
    if (lstat(out_dir, &info) != 0) return HN_OK;
    HN_TRY(hn_folder_names(out_dir, &names, &n));
    hn_folder_names_free(names, n);
    return n == 0 ? HN_OK
                  : HN_FAIL(HN_ERR_IO, "%s is not empty: choose a new or empty folder", out_dir);
}

static hn_status write_json(const char *dir, const char *name, const json_t *value)
{
    if (value == NULL) return HN_OK;
    char *path = hn_asprintf("%s/%s", dir, name);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", dir);
    const hn_status st = hn_json_save(path, value, false);
    hn_free(path);
    return st;
}

hn_status hn_model_dir_save(const hn_model_dir *src, const char *out_dir,
                            const hn_st_entry *entries, int64_t n, const hn_log *log)
{
    return hn_model_dir_save_as(src, out_dir, NULL, NULL, entries, n, log);
}

hn_status hn_model_dir_save_as(const hn_model_dir *src, const char *out_dir, const json_t *config,
                               const json_t *preprocessor, const hn_st_entry *entries, int64_t n,
                               const hn_log *log)
{
    hn_folder *folder = NULL;
    hn_status st;
    if (n < 1) return HN_FAIL(HN_ERR_ARG, "%s: a model without tensors", out_dir);
    HN_TRY(check_target(out_dir));
    HN_TRY(hn_folder_begin(out_dir, &folder));
    const char *dir = hn_folder_temporary(folder);
    HN_TRY_GOTO(st, copy_folder(hn_model_dir_path(src), dir, 0, log), done);
    HN_TRY_GOTO(st, write_json(dir, "config.json", config), done);
    HN_TRY_GOTO(st, write_json(dir, "preprocessor_config.json", preprocessor), done);
    HN_TRY_GOTO(st, write_weights(src, dir, entries, n), done);
    st = hn_folder_commit(folder, false);
    folder = NULL;

done:
    hn_folder_abort(folder);
    return st;
}
