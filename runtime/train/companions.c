#include "runtime/train/companions.h"

#include <fnmatch.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"

/* Settings that any kind of tokenizer may have beside it. */
static const char *const settings[] = {"tokenizer_config.json", "special_tokens_map.json",
                                       "added_tokens.json", "chat_template.jinja", NULL};
/* What hn_tokenizer_load looks for in a folder. */
static const char *const definitions[] = {"tokenizer.json", "vocab.json", "merges.txt", "*.model",
                                          "tok*.bin",       "*.gguf",     NULL};

static bool matches(const char *const *patterns, const char *name)
{
    for (; *patterns != NULL; patterns++)
        if (fnmatch(*patterns, name, 0) == 0) return true;
    return false;
}

static hn_status copy(const char *folder, const char *name, const char *to, const char *new_name)
{
    char *source = hn_asprintf("%s/%s", folder, name);
    char *target = hn_asprintf("%s/%s", to, new_name);
    hn_status st = source && target ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory to copy %s", name);
    if (st == HN_OK) st = hn_copy_file(source, target);
    hn_free(source);
    hn_free(target);
    return st;
}

static bool is_plain(const char *folder, const char *name)
{
    char *path = hn_asprintf("%s/%s", folder, name);
    const bool plain = path == NULL || hn_is_file(path); /* no memory: copy() will say so */
    hn_free(path);
    return plain;
}

/* The files of a folder that match; `besides` (may be NULL) is another list of patterns. */
static hn_status copy_matching(const char *folder, const char *const *patterns,
                               const char *const *besides, const char *to)
{
    char **names = NULL;
    int64_t n = 0;
    hn_status st = hn_folder_names(folder, &names, &n);
    for (int64_t i = 0; i < n && st == HN_OK; i++)
        if ((matches(patterns, names[i]) || (besides != NULL && matches(besides, names[i]))) &&
            is_plain(folder, names[i]))
            st = copy(folder, names[i], to, names[i]);
    hn_folder_names_free(names, n);
    return st;
}

hn_status hn_copy_tokenizer(const char *tokenizer, const char *to)
{
    if (hn_is_folder(tokenizer)) return copy_matching(tokenizer, definitions, settings, to);
    static const char *const pair[] = {"vocab.json", "merges.txt", NULL};
    const char *slash = strrchr(tokenizer, '/'), *name = slash ? slash + 1 : tokenizer;
    char *folder = slash ? hn_strndup(tokenizer, (size_t)(slash - tokenizer) + 1) : hn_strdup(".");
    if (folder == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to copy %s", tokenizer);
    hn_status st = copy_matching(folder, settings, matches(pair, name) ? pair : NULL, to);
    if (st == HN_OK && !matches(pair, name))
        st = copy(folder, name, to, matches(definitions, name) ? name : "tokenizer.json");
    hn_free(folder);
    return st;
}
