/* Finding the files of a tokenizer and the settings beside them. */
#define _POSIX_C_SOURCE 200809L
#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/base/mapfile.h"
#include "runtime/data/tokenizer_impl.h"

static bool exists(const char *path) { return access(path, F_OK) == 0; }

static hn_status join(const char *dir, const char *name, char **out)
{
    char *path = hn_asprintf("%s/%s", dir, name);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "path in %s", dir);
    hn_free(*out);
    *out = path;
    return HN_OK;
}

/* A JSON object beside the tokenizer; *out stays NULL when the file is not there. */
static hn_status load_beside(const char *dir, const char *name, char **path, json_t **out)
{
    HN_TRY(join(dir, name, path));
    if (!exists(*path)) return HN_OK;
    HN_TRY(hn_json_load(*path, out));
    if (json_is_object(*out)) return HN_OK;
    return HN_FAIL(HN_ERR_FORMAT, "%s: not a JSON object", *path);
}

/* ---- settings ---- */

/* "<s>" or {"content": "<s>", ...}; the token must exist and becomes a special one. */
static hn_status named_token(hn_tokenizer *t, const json_t *j, const char *key, const char *where,
                             int32_t *id)
{
    const json_t *v = json_object_get(j, key);
    if (json_is_object(v)) v = json_object_get(v, "content");
    if (v == NULL || json_is_null(v)) return HN_OK;
    if (!json_is_string(v)) return HN_FAIL(HN_ERR_FORMAT, "%s: '%s' is not a token", where, key);
    const char *s = json_string_value(v);
    const int32_t found = hn_vocab_find_any(&t->vocab, s, json_string_length(v));
    if (found < 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %s '%.40s' is not in the vocabulary", where, key, s);
    *id = found;
    if (t->vocab.piece[found].special) return HN_OK;
    return hn_added_push(t, (hn_tok_added){.id = found, .special = true});
}

static hn_status flag(const json_t *j, const char *key, const char *where, int *out)
{
    bool v = *out > 0;
    const json_t *given = json_object_get(j, key);
    if (given == NULL || json_is_null(given)) return HN_OK;
    HN_TRY(hn_json_get_bool(j, key, where, true, &v));
    *out = v;
    return HN_OK;
}

/* added_tokens_decoder: {"32000": {"content": ...}}; added_tokens.json: {"<x>": 32000}. */
static hn_status added_decoder(hn_tokenizer *t, const json_t *map, const char *where)
{
    const char *key;
    json_t *v;
    if (map == NULL || json_is_null(map)) return HN_OK;
    if (!json_is_object(map))
        return HN_FAIL(HN_ERR_FORMAT, "%s: added_tokens_decoder is not an object", where);
    json_object_foreach((json_t *)(size_t)map, key, v)
    {
        char *end;
        errno = 0;
        const long id = strtol(key, &end, 10);
        if (errno != 0 || end == key || *end != '\0' || id < 0)
            return HN_FAIL(HN_ERR_FORMAT, "%s: '%.40s' in added_tokens_decoder is not an id", where,
                           key);
        HN_TRY(hn_tok_json_added(t, v, id, -1, where));
    }
    return HN_OK;
}

static hn_status added_map(hn_tokenizer *t, const json_t *map, const char *where)
{
    const char *content;
    json_t *id;
    json_object_foreach((json_t *)(size_t)map, content, id)
    {
        if (!json_is_integer(id))
            return HN_FAIL(HN_ERR_FORMAT, "%s: the id of '%.40s' is not an integer", where,
                           content);
        const int32_t known = hn_vocab_find_any(&t->vocab, content, strlen(content));
        if (known >= 0 && known == json_integer_value(id)) continue; /* flags come from elsewhere */
        json_t *a = json_pack("{s:s}", "content", content);
        if (a == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s", where);
        const hn_status st = hn_tok_json_added(t, a, json_integer_value(id), -1, where);
        json_decref(a);
        HN_TRY(st);
    }
    return HN_OK;
}

static hn_status names_from(hn_tokenizer *t, const json_t *j, const char *where, bool named[3])
{
    static const char *const key[] = {"bos_token", "eos_token", "unk_token"};
    int32_t *const id[] = {&t->bos, &t->eos, &t->unk};
    for (int i = 0; i < 3; i++) {
        const json_t *v = json_object_get(j, key[i]);
        if (i == 0 && !named[0] && json_is_null(v)) { /* null: this model has no BOS (Qwen2) */
            t->bos = -1;
            t->add_bos = 0;
            named[0] = true;
        }
        if (named[i] || v == NULL || json_is_null(v)) continue;
        HN_TRY(named_token(t, j, key[i], where, id[i]));
        named[i] = true;
    }
    return HN_OK;
}

/* bos_token_id, eos_token_id: a number or a list, of which the first counts. */
static hn_status id_from(const hn_tokenizer *t, const json_t *j, const char *key, const char *where,
                         int32_t *id)
{
    const json_t *v = json_object_get(j, key);
    if (json_is_array(v)) v = json_array_get(v, 0);
    if (v == NULL || json_is_null(v)) return HN_OK;
    const json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;
    if (n < 0 || n >= t->vocab.n_ids)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %s is not an id of this tokenizer (0..%lld)", where, key,
                       (long long)t->vocab.n_ids - 1);
    *id = (int32_t)n;
    return HN_OK;
}

hn_status hn_tok_settings(hn_tokenizer *t, const char *dir)
{
    static const char *const id_files[] = {"generation_config.json", "config.json"};
    hn_status st = HN_OK;
    char *path = NULL;
    json_t *config = NULL, *special = NULL, *added = NULL, *ids = NULL;
    bool named[3] = {false, false, false};
    HN_TRY_GOTO(st, load_beside(dir, "added_tokens.json", &path, &added), done);
    if (added != NULL) HN_TRY_GOTO(st, added_map(t, added, path), done);
    HN_TRY_GOTO(st, load_beside(dir, "tokenizer_config.json", &path, &config), done);
    if (config != NULL) {
        HN_TRY_GOTO(st, added_decoder(t, json_object_get(config, "added_tokens_decoder"), path),
                    done);
        HN_TRY_GOTO(st, names_from(t, config, path, named), done);
        HN_TRY_GOTO(st, flag(config, "add_bos_token", path, &t->add_bos), done);
        HN_TRY_GOTO(st, flag(config, "add_eos_token", path, &t->add_eos), done);
    }
    HN_TRY_GOTO(st, load_beside(dir, "special_tokens_map.json", &path, &special), done);
    if (special != NULL) HN_TRY_GOTO(st, names_from(t, special, path, named), done);
    for (int i = 0; i < 2 && ((t->bos < 0 && !named[0]) || t->eos < 0); i++) {
        HN_TRY_GOTO(st, load_beside(dir, id_files[i], &path, &ids), done);
        if (ids != NULL && t->bos < 0 && !named[0])
            HN_TRY_GOTO(st, id_from(t, ids, "bos_token_id", path, &t->bos), done);
        if (ids != NULL && t->eos < 0)
            HN_TRY_GOTO(st, id_from(t, ids, "eos_token_id", path, &t->eos), done);
        json_decref(ids);
        ids = NULL;
    }

done:
    json_decref(config);
    json_decref(special);
    json_decref(added);
    json_decref(ids);
    hn_free(path);
    return st;
}

/* ---- sealing ---- */

/* Makes the first (last) added id the token, or not, as the settings say. */
static hn_status apply(hn_tokens *list, bool at_front, int setting, int32_t id, const char *name,
                       const char *source)
{
    if (setting < 0) return HN_OK;
    if (setting > 0 && id < 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: add_%s_token is set, but there is no %s token",
                       source != NULL ? source : "", name, name);
    const int64_t at = at_front ? 0 : list->n - 1;
    const bool has = list->n > 0 && id >= 0 && list->id[at] == id;
    if (has == (setting > 0)) return HN_OK;
    if (has) {
        if (at_front) memmove(list->id, list->id + 1, (size_t)(list->n - 1) * sizeof *list->id);
        list->n--;
        return HN_OK;
    }
    HN_TRY(hn_tokens_push(list, id));
    if (!at_front) return HN_OK;
    memmove(list->id + 1, list->id, (size_t)(list->n - 1) * sizeof *list->id);
    list->id[0] = id;
    return HN_OK;
}

static hn_status print_ids(hn_text *to, const char *name, const hn_tokens *list)
{
    char line[32];
    HN_TRY(hn_text_append(to, name, strlen(name)));
    for (int64_t i = 0; i < list->n; i++)
        HN_TRY(hn_text_append(to, line, (size_t)snprintf(line, sizeof line, " %d", list->id[i])));
    return hn_text_append(to, "\n", 1);
}

/* Everything the settings can change, as text. */
static hn_status describe(const hn_tokenizer *t, const char *files, hn_text *to)
{
    char line[160];
    HN_TRY(hn_text_append(to, files, strlen(files)));
    HN_TRY(print_ids(to, "\nprefix", &t->prefix));
    HN_TRY(print_ids(to, "suffix", &t->suffix));
    int n = snprintf(line, sizeof line, "bos %d eos %d unk %d\n", t->bos, t->eos, t->unk);
    HN_TRY(hn_text_append(to, line, (size_t)n));
    for (int64_t i = 0; i < t->n_added; i++) {
        const hn_tok_added *a = &t->added[i];
        size_t n_text;
        const char *s = hn_vocab_text(&t->vocab, a->id, &n_text);
        n = snprintf(line, sizeof line, "added %d %d%d%d%d%d %zu ", a->id, a->single_word,
                     a->lstrip, a->rstrip, a->normalized, a->special, n_text);
        HN_TRY(hn_text_append(to, line, (size_t)n));
        HN_TRY(hn_text_append(to, s, n_text));
        HN_TRY(hn_text_append(to, "\n", 1));
    }
    return HN_OK;
}

hn_status hn_tok_seal(hn_tokenizer *t, const char *files)
{
    hn_text text = {0};
    HN_TRY(apply(&t->prefix, true, t->add_bos, t->bos, "bos", t->source));
    HN_TRY(apply(&t->suffix, false, t->add_eos, t->eos, "eos", t->source));
    HN_TRY(hn_added_finish(t));
    hn_bpe_find_mark(t);
    hn_status st = describe(t, files, &text);
    if (st == HN_OK) st = hn_sha256(text.s, text.n, t->digest);
    hn_text_free(&text);
    return st;
}

/* ---- files ---- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static hn_status dir_name(const char *path, char **out)
{
    const char *slash = strrchr(path, '/');
    *out = slash == NULL ? hn_strdup(".")
                         : hn_strndup(path, slash == path ? 1 : (size_t)(slash - path));
    return *out != NULL ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "folder of %s", path);
}

/* Which pre-tokenizer vocab.json + merges.txt need: they do not say it themselves. */
static hn_status pre_of_class(const char *dir, const char **pre)
{
    static const struct {
        const char *class_name, *pre;
    } known[] = {{"GPT2Tokenizer", "gpt-2"},
                 {"GPT2TokenizerFast", "gpt-2"},
                 {"Qwen2Tokenizer", "qwen2"},
                 {"Qwen2TokenizerFast", "qwen2"}};
    hn_status st = HN_OK;
    char *path = NULL;
    json_t *config = NULL;
    const char *name = NULL;
    bool space = false;
    *pre = "gpt-2";
    HN_TRY_GOTO(st, load_beside(dir, "tokenizer_config.json", &path, &config), done);
    if (config == NULL) goto done;
    HN_TRY_GOTO(st, hn_json_get_text(config, "tokenizer_class", path, false, &name), done);
    HN_TRY_GOTO(st, hn_json_get_bool(config, "add_prefix_space", path, false, &space), done);
    if (space) {
        st = HN_FAIL(HN_ERR_UNSUPPORTED, "%s: add_prefix_space with vocab.json", path);
        goto done;
    }
    if (name == NULL) goto done;
    *pre = NULL;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].class_name) == 0) *pre = known[i].pre;
    if (*pre == NULL)
        st =
            HN_FAIL(HN_ERR_UNSUPPORTED,
                    "%s: tokenizer_class '%.60s' with vocab.json and merges.txt (GPT2Tokenizer and "
                    "Qwen2Tokenizer are known; a tokenizer.json needs no class)",
                    path, name);

done:
    json_decref(config);
    hn_free(path);
    return st;
}

static hn_status load_gpt2(const char *dir, char **files, hn_tokenizer **out)
{
    hn_status st = HN_OK;
    hn_mapfile vocab = {0}, merges = {0};
    char *path = NULL, a[HN_SHA256_HEX], b[HN_SHA256_HEX];
    const char *pre;
    HN_TRY_GOTO(st, pre_of_class(dir, &pre), done);
    HN_TRY_GOTO(st, join(dir, "merges.txt", &path), done);
    HN_TRY_GOTO(st, hn_mapfile_open(path, &merges), done);
    HN_TRY_GOTO(st, join(dir, "vocab.json", &path), done);
    HN_TRY_GOTO(st, hn_mapfile_open(path, &vocab), done);
    HN_TRY_GOTO(st, hn_sha256(vocab.data, vocab.size, a), done);
    HN_TRY_GOTO(st, hn_sha256(merges.data, merges.size, b), done);
    if ((*files = hn_asprintf("gpt2 %s %s %s", pre, a, b)) == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "%s", path);
        goto done;
    }
    st = hn_tok_parse_gpt2((const char *)vocab.data, vocab.size, (const char *)merges.data,
                           merges.size, pre, path, out);

done:
    hn_mapfile_close(&vocab);
    hn_mapfile_close(&merges);
    hn_free(path);
    return st;
}

/* One file, by its first bytes and its name. */
static hn_status load_file(const char *path, char **files, hn_tokenizer **out)
{
    const char *name = base_name(path);
    hn_status st = HN_OK;
    hn_mapfile map = {0};
    char hex[HN_SHA256_HEX];
    const char *kind = NULL;
    HN_TRY(hn_mapfile_open(path, &map));
    size_t used = map.size, i = 0;
    while (i < map.size && strchr(" \t\r\n", map.data[i] ? map.data[i] : 'x') != NULL) i++;
    if (map.size >= 4 && memcmp(map.data, "GGUF", 4) == 0) {
        kind = "GGUF";
        st = hn_tok_parse_gguf(map.data, map.size, path, &used, out);
    } else if (strstr(name, ".model") != NULL) {
        kind = "SentencePiece";
        st = hn_tok_parse_sp(map.data, map.size, path, out);
    } else if (i < map.size && map.data[i] == '{') {
        kind = "json";
        st = hn_tok_parse_json((const char *)map.data, map.size, path, out);
    } else if (fnmatch("tok*.bin", name, 0) == 0) {
        kind = "llama2.c";
        st = hn_tok_parse_llama2c(map.data, map.size, path, out);
    } else {
        st = HN_FAIL(
            HN_ERR_FORMAT,
            "%s: not a tokenizer (tokenizer.json, *.model, vocab.json, merges.txt, GGUF and "
            "tok*.bin are known)",
            path);
    }
    if (st == HN_OK) st = hn_sha256(map.data, used, hex);
    if (st == HN_OK && (*files = hn_asprintf("%s %s", kind, hex)) == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "%s", path);
    hn_mapfile_close(&map);
    return st;
}

static hn_status load_path(const char *path, hn_tokenizer **out)
{
    static const char *const model_name[] = {
        "BPE",     "SentencePiece BPE",     "SentencePiece char",
        "Unigram", "SentencePiece unigram", "WordLevel"};
    hn_status st = HN_OK;
    hn_tokenizer *t = NULL;
    char *dir = NULL, *files = NULL;
    const bool gpt2 =
        strcmp(base_name(path), "vocab.json") == 0 || strcmp(base_name(path), "merges.txt") == 0;
    HN_TRY(dir_name(path, &dir));
    HN_TRY_GOTO(st, gpt2 ? load_gpt2(dir, &files, &t) : load_file(path, &files, &t), done);
    t->source = hn_asprintf("%s (%s)", path, model_name[t->model]);
    if (t->source == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "%s", path);
        goto done;
    }
    HN_TRY_GOTO(st, hn_tok_settings(t, dir), done);
    HN_TRY_GOTO(st, hn_tok_seal(t, files), done);
    *out = t;
    t = NULL;

done:
    hn_tokenizer_free(t);
    hn_free(dir);
    hn_free(files);
    return st;
}

/* The only file of a folder that matches one of the patterns. */
static hn_status find_only(const char *dir, char **path)
{
    hn_status st = HN_OK;
    char *first = NULL;
    DIR *d = opendir(dir);
    if (d == NULL) return HN_FAIL(HN_ERR_IO, "open folder %s: %s", dir, strerror(errno));
    for (const struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        if (fnmatch("*.model", e->d_name, 0) != 0 && fnmatch("*.gguf", e->d_name, 0) != 0 &&
            fnmatch("tok*.bin", e->d_name, 0) != 0)
            continue;
        if (first != NULL) {
            st =
                HN_FAIL(HN_ERR_FORMAT, "%s: which is the tokenizer, %s or %s? Name the file itself",
                        dir, first, e->d_name);
            goto done;
        }
        if ((first = hn_strdup(e->d_name)) == NULL) {
            st = HN_FAIL(HN_ERR_MEMORY, "folder %s", dir);
            goto done;
        }
    }
    if (first == NULL) {
        st =
            HN_FAIL(HN_ERR_IO,
                    "%s: no tokenizer: looked for tokenizer.json, tokenizer.model, vocab.json with "
                    "merges.txt, *.model, *.gguf, tok*.bin",
                    dir);
        goto done;
    }
    st = join(dir, first, path);

done:
    closedir(d);
    hn_free(first);
    return st;
}

hn_status hn_tokenizer_load(const char *path, hn_tokenizer **out)
{
    hn_status st = HN_OK;
    struct stat info;
    char *file = NULL;
    if (stat(path, &info) != 0) return HN_FAIL(HN_ERR_IO, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(info.st_mode)) return load_path(path, out);
    static const char *const wanted[] = {"tokenizer.json", "tokenizer.model", "vocab.json"};
    for (int i = 0; i < 3; i++) {
        HN_TRY_GOTO(st, join(path, wanted[i], &file), done);
        bool there = exists(file);
        if (there && i == 2) {
            HN_TRY_GOTO(st, join(path, "merges.txt", &file), done);
            there = exists(file);
        }
        if (!there) continue;
        st = load_path(file, out);
        goto done;
    }
    HN_TRY_GOTO(st, find_only(path, &file), done);
    st = load_path(file, out);

done:
    hn_free(file);
    return st;
}
