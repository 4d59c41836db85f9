#define _POSIX_C_SOURCE 200809L
#include "runtime/data/dataset.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/data/data_util.h"

struct hn_dataset {
    hn_token_cache cache;
    hn_data_format format;
    bool continues;
    char digest[HN_SHA256_HEX];
    char *name;
};

void hn_dataset_free(hn_dataset *d)
{
    if (d == NULL) return;
    hn_token_cache_free(&d->cache);
    hn_free(d->name);
    hn_free(d);
}

const hn_token_cache *hn_dataset_tokens(const hn_dataset *d) { return &d->cache; }
const hn_token_stats *hn_dataset_stats(const hn_dataset *d) { return &d->cache.stats; }
hn_data_format hn_dataset_format(const hn_dataset *d) { return d->format; }
bool hn_dataset_continues(const hn_dataset *d) { return d->continues; }
const char *hn_dataset_digest(const hn_dataset *d) { return d->digest; }
const char *hn_dataset_name(const hn_dataset *d) { return d->name; }

/* ---- key ---- */

/* Everything that decides about the tokens, one line each. Columns carry their length, so no name
 * can imitate another line. */
static hn_status make_key(const hn_dataset_options *o, const hn_template *f, const hn_tokenizer *t,
                          const hn_source *s, int64_t from, int64_t to, char key[HN_SHA256_HEX])
{
    const hn_source_info *info = hn_source_about(s);
    const char *column[] = {f->text_key, f->prompt_key, f->completion_key, f->separator};
    char *columns = hn_strdup("");
    for (size_t i = 0; columns != NULL && i < sizeof column / sizeof *column; i++) {
        const char *c = column[i];
        char *longer =
            c ? hn_asprintf("%s%zu:%s\n", columns, strlen(c), c) : hn_asprintf("%s-\n", columns);
        hn_free(columns);
        columns = longer;
    }
    char *text = columns == NULL
                     ? NULL
                     : hn_asprintf("hone tokens 1\ndata %s\nunits %" PRId64 "..%" PRId64
                                   " of %" PRId64 "\ntokenizer %s\nformat %s\npiece %" PRId64
                                   "\ntrain_on_prompt %d\nparse_special %d\n%s",
                                   info->digest, from, to, info->n_units, hn_tokenizer_digest(t),
                                   hn_data_format_name(f->format),
                                   o->limits.piece_bytes ? o->limits.piece_bytes
                                                         : (int64_t)HN_SOURCE_PIECE_BYTES,
                                   o->train_on_prompt, o->parse_special, columns);
    hn_free(columns);
    if (text == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the key of the token cache");
    const hn_status st = hn_sha256(text, strlen(text), key);
    hn_free(text);
    return st;
}

/* ---- cache folder ---- */

/* *dir is the caller's; NULL: keep tokens in memory. */
static hn_status cache_folder(const hn_dataset_options *o, char **dir)
{
    *dir = NULL;
    if (o->cache_dir != NULL && strcmp(o->cache_dir, "off") == 0) return HN_OK;
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *d = NULL;
    if (o->cache_dir != NULL)
        d = hn_strdup(o->cache_dir);
    else if (xdg != NULL && xdg[0] == '/')
        d = hn_asprintf("%s/hone", xdg);
    else if (home != NULL && home[0] == '/')
        d = hn_asprintf("%s/.cache/hone", home);
    else {
        hn_warn(o->log, "tokens are kept in memory: neither XDG_CACHE_HOME nor HOME is set");
        return HN_OK;
    }
    if (d == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the path of the token cache");
    *dir = d;
    return HN_OK;
}

/* Opens the writer in the folder; a default folder that cannot be written means memory. */
static hn_status open_writer(const hn_dataset_options *o, const char *dir, const char *path,
                             const char *key, hn_token_writer **w)
{
    if (dir == NULL) return hn_token_writer_open(NULL, key, w);
    hn_status st = hn_make_dirs(dir);
    if (st == HN_OK) st = hn_token_writer_open(path, key, w);
    if ((st != HN_ERR_IO && st != HN_ERR_WRITE) || o->cache_dir != NULL) return st;
    hn_warn(o->log, "tokens are kept in memory: %s", hn_error_reason(st, hn_last_error()));
    return hn_token_writer_open(NULL, key, w);
}

/* ---- one part of the data ---- */

static hn_status check_stats(const hn_source *s, const hn_token_stats *stats, int64_t n_samples)
{
    const char *path = hn_source_path(s, 0);
    if (stats->rows == 0) return HN_FAIL(HN_ERR_FORMAT, "%s: no rows", path);
    if (n_samples == 0 || stats->trained == 0)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: no trained tokens: of %" PRId64 " rows %" PRId64
                       " are empty and %" PRId64 " have every label masked",
                       path, stats->rows, stats->dropped_empty, stats->dropped_masked);
    return HN_OK;
}

static hn_status build_tokens(const hn_dataset_options *o, const hn_template *format,
                              const hn_tokenizer *t, hn_source *s, const char *dir,
                              const char *path, const char *key, hn_token_cache *out)
{
    hn_status st = HN_OK;
    hn_token_writer *w = NULL;
    hn_token_stats stats = {0};
    const hn_token_job job = {.source = s,
                              .format = format,
                              .tokenizer = t,
                              .train_on_prompt = o->train_on_prompt,
                              .parse_special = o->parse_special,
                              .threads = o->threads,
                              .tell = o->tell,
                              .tell_context = o->tell_context};
    HN_TRY_GOTO(st, open_writer(o, dir, path, key, &w), done);
    HN_TRY_GOTO(st, hn_token_build(&job, w, &stats), done);
    HN_TRY_GOTO(st, check_stats(s, &stats, hn_token_writer_samples(w)), done);
    hn_token_writer *finished = w;
    w = NULL; /* finish frees it in every case */
    st = hn_token_writer_finish(finished, &stats, hn_tokenizer_vocab_size(t), out);

done:
    hn_token_writer_abort(w);
    return st;
}

static hn_status get_tokens(const hn_dataset_options *o, const hn_template *format,
                            const hn_tokenizer *t, hn_source *s, hn_dataset *d)
{
    char *dir = NULL, *path = NULL;
    struct stat info;
    hn_status st = HN_OK;
    HN_TRY_GOTO(st, cache_folder(o, &dir), done);
    if (dir != NULL) {
        path = hn_asprintf("%s/%s.tokens", dir, d->digest);
        if (path == NULL) {
            st = HN_FAIL(HN_ERR_MEMORY, "no memory for the path of the token cache");
            goto done;
        }
        if (stat(path, &info) == 0) {
            st = hn_token_cache_load(path, d->digest, hn_tokenizer_vocab_size(t), &d->cache);
            if (st == HN_OK) hn_info(o->log, "tokens of %s: from %s", d->name, path);
            if (st == HN_OK || st == HN_ERR_MEMORY) goto done;
            hn_warn(o->log, "token cache is built again: %s", hn_error_reason(st, hn_last_error()));
        }
    }
    HN_TRY_GOTO(st, build_tokens(o, format, t, s, dir, path, d->digest, &d->cache), done);
    if (d->cache.map.data != NULL) hn_info(o->log, "tokens of %s: kept in %s", d->name, path);

done:
    hn_free(path);
    hn_free(dir);
    return st;
}

/* Takes over `name`. */
static hn_status open_part(const hn_dataset_options *o, const hn_template *format,
                           const hn_tokenizer *t, hn_source *s, int64_t from, int64_t to,
                           char *name, hn_dataset **out)
{
    hn_status st = HN_OK;
    hn_dataset *d = hn_calloc(1, sizeof *d);
    if (d == NULL || name == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for a data set");
        hn_free(name);
        goto done;
    }
    d->name = name;
    d->format = format->format;
    d->continues = format->format == HN_DATA_TEXT;
    HN_TRY_GOTO(st, hn_source_select(s, from, to), done);
    HN_TRY_GOTO(st, make_key(o, format, t, s, from, to, d->digest), done);
    HN_TRY_GOTO(st, get_tokens(o, format, t, s, d), done);
    *out = d;
    d = NULL;

done:
    hn_dataset_free(d);
    return st;
}

/* ---- files ---- */

typedef struct {
    char *train, *eval; /* lists of files; eval NULL: none of its own */
} file_lists;

static bool is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static hn_status find_files(const hn_dataset_options *o, file_lists *out)
{
    static const char *const train[] = {"train", NULL};
    static const char *const valid[] = {"valid", "validation", "eval", "dev", NULL};
    const bool folder = is_folder(o->data);
    char *found = NULL;
    if (folder) {
        HN_TRY(hn_source_find(o->data, train, &out->train));
        if (out->train == NULL)
            return HN_FAIL(HN_ERR_IO,
                           "%s: no train.jsonl, train.json, train.txt (or .gz) in this folder",
                           o->data);
        HN_TRY(hn_source_find(o->data, valid, &found));
    } else {
        out->train = hn_strdup(o->data);
    }
    if (found != NULL && (o->eval_data != NULL || o->eval_split > 0)) {
        hn_warn(o->log, "%s is not used: held-out data are named otherwise", found);
        hn_free(found);
        found = NULL;
    }
    out->eval = o->eval_data ? hn_strdup(o->eval_data) : found;
    if (out->train == NULL || (o->eval_data != NULL && out->eval == NULL))
        return HN_FAIL(HN_ERR_MEMORY, "no memory for the list of data files");
    return HN_OK;
}

static hn_status settle(const hn_dataset_options *o, hn_source *s, hn_template *format)
{
    int64_t looked = 0;
    const hn_source_info *info = hn_source_about(s);
    HN_TRY(hn_template_settle(format, s, &looked));
    const char *path = hn_source_path(s, 0);
    if (info->is_text)
        hn_info(o->log, "%s: plain text, %" PRId64 " bytes in %" PRId64 " file(s)", path,
                info->n_units, info->n_files);
    else if (looked > 0)
        hn_info(o->log, "%s: %" PRId64 " rows, format %s (as the first %" PRId64 " show)", path,
                info->n_units, hn_data_format_name(format->format), looked);
    else
        hn_info(o->log, "%s: %" PRId64 " rows, format %s (as asked for)", path, info->n_units,
                hn_data_format_name(format->format));
    if (info->n_units == 0) return HN_FAIL(HN_ERR_FORMAT, "%s: no rows", path);
    return HN_OK;
}

static hn_status check_options(const hn_dataset_options *o)
{
    if (o->data == NULL || o->data[0] == '\0') return HN_FAIL(HN_ERR_ARG, "no data file is named");
    if (!(o->eval_split >= 0 && o->eval_split < 1))
        return HN_FAIL(HN_ERR_ARG, "eval_split is %g, allowed 0 up to below 1", o->eval_split);
    if (o->eval_data != NULL && o->eval_split > 0)
        return HN_FAIL(HN_ERR_ARG, "eval_data and eval_split exclude each other");
    if (o->eval_data != NULL && is_folder(o->eval_data))
        return HN_FAIL(HN_ERR_ARG, "eval_data %s is a folder: name its file", o->eval_data);
    if (o->cache_dir != NULL && o->cache_dir[0] == '\0')
        return HN_FAIL(HN_ERR_ARG, "cache_dir is empty; \"off\" keeps tokens in memory");
    return HN_OK;
}

/* Held-out data from files of their own. */
static hn_status open_eval_files(const hn_dataset_options *o, const hn_tokenizer *t,
                                 const char *list, hn_dataset **out)
{
    hn_status st = HN_OK;
    hn_source *s = NULL;
    hn_template format = o->format;
    HN_TRY_GOTO(st, hn_source_open(list, &o->limits, &s), done);
    if (hn_source_about(s)->is_text && format.format != HN_DATA_TEXT) {
        format = (hn_template){0}; /* columns concern the rows of the training data */
    }
    HN_TRY_GOTO(st, settle(o, s, &format), done);
    st = open_part(o, &format, t, s, 0, hn_source_about(s)->n_units, hn_strdup(list), out);

done:
    hn_source_close(s);
    return st;
}

hn_status hn_dataset_open(const hn_dataset_options *o, const hn_tokenizer *t, hn_dataset **train,
                          hn_dataset **eval)
{
    hn_status st = HN_OK;
    file_lists files = {0};
    hn_source *s = NULL;
    hn_dataset *d = NULL, *e = NULL;
    hn_template format = o->format;
    HN_TRY_GOTO(st, check_options(o), done);
    HN_TRY_GOTO(st, find_files(o, &files), done);
    HN_TRY_GOTO(st, hn_source_open(files.train, &o->limits, &s), done);
    HN_TRY_GOTO(st, settle(o, s, &format), done);
    const int64_t n = hn_source_about(s)->n_units;
    int64_t cut = n;
    if (o->eval_split > 0) HN_TRY_GOTO(st, hn_source_split(s, o->eval_split, &cut), done);
    if (train != NULL)
        HN_TRY_GOTO(st, open_part(o, &format, t, s, 0, cut, hn_strdup(files.train), &d), done);
    if (eval != NULL && cut < n) {
        char *name = hn_asprintf("the last %g %% of %s", 100 * o->eval_split, files.train);
        HN_TRY_GOTO(st, open_part(o, &format, t, s, cut, n, name, &e), done);
    } else if (eval != NULL && files.eval != NULL) {
        HN_TRY_GOTO(st, open_eval_files(o, t, files.eval, &e), done);
    }
    if (train != NULL) *train = d;
    if (eval != NULL) *eval = e;
    d = e = NULL;

done:
    hn_dataset_free(d);
    hn_dataset_free(e);
    hn_source_close(s);
    hn_free(files.train);
    hn_free(files.eval);
    return st;
}

hn_status hn_dataset_from_words(const int32_t *word, const int64_t *offset, int64_t n_samples,
                                bool continues, hn_dataset **out)
{
    hn_status st = HN_OK;
    hn_token_writer *w = NULL;
    hn_token_stats stats = {.rows = n_samples, .unk_id = -1};
    hn_dataset *d = hn_calloc(1, sizeof *d);
    if (d == NULL || (d->name = hn_strdup("tokens in memory")) == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for a data set");
        goto done;
    }
    d->format = continues ? HN_DATA_TEXT : HN_DATA_TOKENS;
    d->continues = continues;
    HN_TRY_GOTO(st, hn_token_writer_open(NULL, "", &w), done);
    for (int64_t i = 0; i < n_samples; i++) {
        if (offset[0] != 0 || offset[i + 1] <= offset[i]) {
            st = HN_FAIL(HN_ERR_ARG, "offset of sample %" PRId64 " does not rise", i);
            goto done;
        }
        for (int64_t k = offset[i] + 1; k < offset[i + 1]; k++) stats.trained += word[k] >= 0;
        HN_TRY_GOTO(st, hn_token_writer_add(w, word + offset[i], offset[i + 1] - offset[i]), done);
        HN_TRY_GOTO(st, hn_token_writer_end_sample(w), done);
    }
    if (stats.trained == 0) {
        st = HN_FAIL(HN_ERR_FORMAT, "no trained tokens in %" PRId64 " samples", n_samples);
        goto done;
    }
    for (int i = 0; i < HN_UNK_TOP; i++) stats.unk_char[i] = -1;
    HN_TRY_GOTO(st, hn_sha256(word, (size_t)offset[n_samples] * sizeof *word, d->digest), done);
    hn_token_writer *finished = w;
    w = NULL;
    HN_TRY_GOTO(st, hn_token_writer_finish(finished, &stats, INT64_MAX, &d->cache), done);
    *out = d;
    d = NULL;

done:
    hn_token_writer_abort(w);
    hn_dataset_free(d);
    return st;
}
