#include "runtime/file/model_dir.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/file/folder.h"

struct hn_model_dir {
    char *path, *config_path;
    json_t *config, *generation, *index;
    hn_st_file **files;
    int64_t n_files;
    bool sharded;
    const hn_st_tensor **tensors; /* in byte order of the names */
    int64_t n;
};

void hn_model_dir_close(hn_model_dir *m)
{
    if (m == NULL) return;
    for (int64_t i = 0; i < m->n_files; i++) hn_st_close(m->files[i]);
    hn_free(m->files);
    hn_free(m->tensors);
    json_decref(m->config);
    json_decref(m->generation);
    json_decref(m->index);
    hn_free(m->config_path);
    hn_free(m->path);
    hn_free(m);
}

static char *path_in(const hn_model_dir *m, const char *name)
{
    return hn_asprintf("%s/%s", m->path, name);
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const hn_st_tensor *const *)a)->name, (*(const hn_st_tensor *const *)b)->name);
}

/* ---- configuration ---- */

static hn_status load_object(const char *path, json_t **out)
{
    HN_TRY(hn_json_load(path, out));
    return json_is_object(*out) ? HN_OK : HN_FAIL(HN_ERR_FORMAT, "%s: not a JSON object", path);
}

static hn_status load_configs(hn_model_dir *m)
{
    char *adapter = path_in(m, "adapter_config.json");
    char *generation = path_in(m, "generation_config.json");
    m->config_path = path_in(m, "config.json");
    hn_status st = HN_OK;
    if (adapter == NULL || generation == NULL || m->config_path == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", m->path);
    else if (!hn_is_folder(m->path))
        st = HN_FAIL(HN_ERR_IO, "%s: no such folder", m->path);
    else if (!hn_is_file(m->config_path) && hn_is_file(adapter))
        st = HN_FAIL(HN_ERR_IO, "%s holds an adapter, not a model: there is no config.json",
                     m->path);
    else
        st = load_object(m->config_path, &m->config);
    if (st == HN_OK && hn_is_file(generation)) st = load_object(generation, &m->generation);
    hn_free(generation);
    hn_free(adapter);
    return st;
}

/* ---- weights ---- */

static hn_status open_file(hn_model_dir *m, const char *name)
{
    char *path = path_in(m, name);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", m->path);
    const hn_status st = hn_st_open(path, &m->files[m->n_files]);
    if (st == HN_OK) m->n_files++;
    hn_free(path);
    return st;
}

static hn_status open_single(hn_model_dir *m, const char *path)
{
    m->files = hn_calloc(1, sizeof(void *));
    if (m->files == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", m->path);
    HN_TRY(hn_st_open(path, &m->files[0]));
    m->n_files = 1;
    m->n = hn_st_count(m->files[0]);
    m->tensors = hn_calloc((size_t)m->n, sizeof(void *));
    if (m->tensors == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", m->path);
    for (int64_t i = 0; i < m->n; i++) m->tensors[i] = hn_st_at(m->files[0], i);
    return HN_OK;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The different file names of the map, sorted; the texts are the map's. */
static hn_status list_shards(json_t *map, const char *where, const char ***out, int64_t *n)
{
    const char **names = hn_calloc(json_object_size(map), sizeof *names);
    if (names == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", where);
    int64_t count = 0, kept = 0;
    for (void *at = json_object_iter(map); at != NULL; at = json_object_iter_next(map, at)) {
        const char *file = json_string_value(json_object_iter_value(at));
        if (file == NULL || *file == '\0' || *file == '.' || strpbrk(file, "/\\") != NULL) {
            hn_free(names);
            return HN_FAIL(HN_ERR_FORMAT, "%s: tensor '%.200s': '%.200s' is not a file name", where,
                           json_object_iter_key(at), file ? file : "(no text)");
        }
        names[count++] = file;
    }
    qsort(names, (size_t)count, sizeof *names, by_text);
    for (int64_t i = 0; i < count; i++)
        if (kept == 0 || strcmp(names[i], names[kept - 1]) != 0) names[kept++] = names[i];
    *out = names;
    *n = kept;
    return HN_OK;
}

/* Takes over the tensors of one shard that the map places there. */
static hn_status take_shard(hn_model_dir *m, const json_t *map, const char *shard,
                            const char *where, const hn_log *log)
{
    const hn_st_file *f = m->files[m->n_files - 1];
    for (int64_t i = 0; i < hn_st_count(f); i++) {
        const hn_st_tensor *t = hn_st_at(f, i);
        const char *mapped = json_string_value(json_object_get(map, t->name));
        if (mapped == NULL)
            hn_warn(log, "%s: tensor '%.200s' is not in the index and is ignored", hn_st_where(f),
                    t->name);
        else if (strcmp(mapped, shard) != 0)
            return HN_FAIL(HN_ERR_FORMAT, "%s: tensor '%.200s' is in %s as well as in %s", where,
                           t->name, shard, mapped);
        else
            m->tensors[m->n++] = t;
    }
    return HN_OK;
}

static hn_status check_all_found(const hn_model_dir *m, json_t *map, const char *where)
{
    for (void *at = json_object_iter(map); at != NULL; at = json_object_iter_next(map, at))
        if (hn_model_dir_find(m, json_object_iter_key(at)) == NULL)
            return HN_FAIL(HN_ERR_FORMAT, "%s: tensor '%.200s' is not in its shard %s", where,
                           json_object_iter_key(at), json_string_value(json_object_iter_value(at)));
    return HN_OK;
}

static hn_status open_sharded(hn_model_dir *m, const char *index, const hn_log *log)
{
    hn_status st = HN_OK;
    const char **shards = NULL;
    int64_t n = 0;
    m->sharded = true;
    HN_TRY(load_object(index, &m->index));
    json_t *map = json_object_get(m->index, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: key 'weight_map' is missing or empty", index);
    HN_TRY(list_shards(map, index, &shards, &n));
    m->files = hn_calloc((size_t)n, sizeof(void *));
    m->tensors = hn_calloc(json_object_size(map), sizeof(void *));
    if (m->files == NULL || m->tensors == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", m->path);
        goto done;
    }
    for (int64_t i = 0; i < n; i++) {
        HN_TRY_GOTO(st, open_file(m, shards[i]), done);
        HN_TRY_GOTO(st, take_shard(m, map, shards[i], index, log), done);
    }
    qsort(m->tensors, (size_t)m->n, sizeof *m->tensors, by_name);
    st = check_all_found(m, map, index);

done:
    hn_free(shards);
    return st;
}

static hn_status no_weights(const hn_model_dir *m)
{
    static const char *const pickles[] = {"pytorch_model.bin", "pytorch_model.bin.index.json"};
    for (size_t i = 0; i < sizeof pickles / sizeof *pickles; i++) {
        char *path = path_in(m, pickles[i]);
        if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", m->path);
        const bool there = hn_is_file(path);
        hn_free(path);
        if (!there) continue;
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s holds only %s, a pickle, which can run code; convert it with: python -c "
                       "\"from transformers import AutoModelForCausalLM as M; "
                       "M.from_pretrained('%s', dtype='auto').save_pretrained('NEW_FOLDER')\"",
                       m->path, pickles[i], m->path);
    }
    return HN_FAIL(HN_ERR_IO,
                   "%s: no weights, neither model.safetensors nor model.safetensors.index.json",
                   m->path);
}

static hn_status open_weights(hn_model_dir *m, const hn_log *log)
{
    hn_status st = HN_OK;
    char *single = path_in(m, "model.safetensors");
    char *index = path_in(m, "model.safetensors.index.json");
    if (single == NULL || index == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", m->path);
    else if (hn_is_file(single))
        st = open_single(m, single);
    else if (hn_is_file(index))
        st = open_sharded(m, index, log);
    else
        st = no_weights(m);
    if (st == HN_OK) qsort(m->tensors, (size_t)m->n, sizeof *m->tensors, by_name);
    hn_free(index);
    hn_free(single);
    return st;
}

hn_status hn_model_dir_open(const char *dir, const hn_log *log, hn_model_dir **out)
{
    hn_model_dir *m = hn_calloc(1, sizeof *m);
    if (m == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", dir);
    hn_status st = HN_OK;
    m->path = hn_strdup(dir);
    if (m->path == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", dir);
    if (st == HN_OK) st = load_configs(m);
    if (st == HN_OK) st = open_weights(m, log);
    if (st == HN_OK)
        *out = m;
    else
        hn_model_dir_close(m);
    return st;
}

hn_status hn_model_dir_open_file(const char *file, hn_model_dir **out)
{
    hn_model_dir *m = hn_calloc(1, sizeof *m);
    if (m == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", file);
    m->path = hn_strdup(file);
    hn_status st =
        m->path ? open_single(m, file) : HN_FAIL(HN_ERR_MEMORY, "no memory for %s", file);
    if (st == HN_OK) qsort(m->tensors, (size_t)m->n, sizeof *m->tensors, by_name);
    if (st == HN_OK)
        *out = m;
    else
        hn_model_dir_close(m);
    return st;
}

/* ---- access ---- */

const char *hn_model_dir_path(const hn_model_dir *m) { return m->path; }

const char *hn_model_dir_config_path(const hn_model_dir *m) { return m->config_path; }

const json_t *hn_model_dir_config(const hn_model_dir *m) { return m->config; }

const json_t *hn_model_dir_generation(const hn_model_dir *m) { return m->generation; }

int64_t hn_model_dir_count(const hn_model_dir *m) { return m->n; }

const hn_st_tensor *hn_model_dir_at(const hn_model_dir *m, int64_t i)
{
    return i >= 0 && i < m->n ? m->tensors[i] : NULL;
}

const hn_st_tensor *hn_model_dir_find(const hn_model_dir *m, const char *name)
{
    const hn_st_tensor key = {.name = name}, *wanted = &key;
    const hn_st_tensor *const *found =
        m->n > 0 ? bsearch(&wanted, m->tensors, (size_t)m->n, sizeof *m->tensors, by_name) : NULL;
    return found != NULL ? *found : NULL;
}

const char *hn_model_dir_file_of(const hn_model_dir *m, const hn_st_tensor *t)
{
    for (int64_t i = 0; i < m->n_files; i++)
        if (hn_st_find(m->files[i], t->name) == t) return hn_st_where(m->files[i]);
    return m->path;
}

uint64_t hn_model_dir_shard_bytes(const hn_model_dir *m)
{
    uint64_t most = 0;
    for (int64_t i = 0; m->sharded && i < m->n_files; i++) {
        uint64_t n_bytes = 0;
        for (int64_t k = 0; k < hn_st_count(m->files[i]); k++)
            n_bytes += hn_st_at(m->files[i], k)->n_bytes;
        if (n_bytes > most) most = n_bytes;
    }
    return most;
}

/* ---- digest ---- */

/* The line of one tensor; hn_free it. */
static hn_status digest_line(const hn_st_tensor *t, char **out)
{
    char shape[HN_ST_MAX_DIMS * 21 + 3] = "[", hex[HN_SHA256_HEX];
    size_t at = 1;
    for (const char *p = t->name; *p; p++)
        if ((unsigned char)*p < 0x20)
            return HN_FAIL(HN_ERR_FORMAT, "tensor '%.200s': a control character in the name",
                           t->name);
    for (int i = 0; i < t->ndim; i++)
        at += (size_t)snprintf(shape + at, sizeof shape - at, "%s%" PRId64, i > 0 ? "," : "",
                               t->dim[i]);
    HN_TRY(hn_sha256(t->data, t->n_bytes, hex));
    *out = hn_asprintf("%s %s %s] %s\n", t->name, hn_st_dtype_name(t->dtype), shape, hex);
    return *out ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the digest of '%s'", t->name);
}

/* Joins the lines and hashes them. */
static hn_status digest_lines(char *const *lines, int64_t n, char hex[HN_SHA256_HEX])
{
    size_t size = 0, at = 0;
    for (int64_t i = 0; i < n; i++) size += strlen(lines[i]);
    char *all = hn_malloc(size + 1);
    if (all == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a tensor-tree digest", size);
    for (int64_t i = 0; i < n; i++) {
        const size_t length = strlen(lines[i]);
        memcpy(all + at, lines[i], length);
        at += length;
    }
    const hn_status st = hn_sha256(all, size, hex);
    hn_free(all);
    return st;
}

hn_status hn_tensor_tree_digest(const hn_st_tensor *const *tensors, int64_t n,
                                char hex[HN_SHA256_HEX])
{
    hn_status st = HN_OK;
    const hn_st_tensor **order = hn_calloc((size_t)n, sizeof *order);
    char **lines = hn_calloc((size_t)n, sizeof *lines);
    if (order == NULL || lines == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for the digest of %" PRId64 " tensors", n);
        goto done;
    }
    for (int64_t i = 0; i < n; i++) order[i] = tensors[i];
    qsort(order, (size_t)n, sizeof *order, by_name);
    for (int64_t i = 0; i < n; i++) HN_TRY_GOTO(st, digest_line(order[i], &lines[i]), done);
    st = digest_lines(lines, n, hex);

done:
    for (int64_t i = 0; lines != NULL && i < n; i++) hn_free(lines[i]);
    hn_free(lines);
    hn_free(order);
    return st;
}

hn_status hn_model_dir_digest(const hn_model_dir *m, char hex[HN_SHA256_HEX])
{
    return hn_tensor_tree_digest(m->tensors, m->n, hex);
}
