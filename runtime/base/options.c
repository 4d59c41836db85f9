#define _POSIX_C_SOURCE 200809L
#include "runtime/base/options.h"

#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/nearest.h"
#include "runtime/base/options_impl.h"

enum { PLACE_TEXT = 256 }; /* "default of lora.rank", "--lora.rank" */

void hn_options_free(hn_options_store *s)
{
    if (s == NULL) return;
    for (size_t i = 0; s->text != NULL && i < s->n; i++) hn_free(s->text[i]);
    hn_free(s->text);
    hn_free(s->given);
    hn_free(s);
}

static hn_status store_make(const hn_option *table, size_t n, hn_options_store **out)
{
    hn_options_store *s = hn_calloc(1, sizeof *s);
    if (s == NULL) return HN_FAIL(HN_ERR_MEMORY, "options: %zu bytes", sizeof *s);
    s->table = table;
    s->n = n;
    s->text = hn_calloc(n, sizeof *s->text);
    s->given = hn_calloc(n, sizeof *s->given);
    if (s->text == NULL || s->given == NULL) {
        hn_options_free(s);
        return HN_FAIL(HN_ERR_MEMORY, "options: table of %zu rows", n);
    }
    *out = s;
    return HN_OK;
}

static bool same_name(const char *known, const char *name, size_t length)
{
    if (strlen(known) != length) return false;
    for (size_t i = 0; i < length; i++) {
        const char a = known[i] == '_' ? '-' : known[i], b = name[i] == '_' ? '-' : name[i];
        if (a != b) return false;
    }
    return true;
}

size_t hn_option_find(const hn_options_store *s, const char *name, size_t length)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->table[i].kind != HN_OPT_HEADING && same_name(s->table[i].name, name, length))
            return i;
    return s->n;
}

hn_status hn_option_unknown(const hn_options_store *s, const char *name, const char *place)
{
    const char **names = hn_calloc(s->n, sizeof *names); /* without it: no suggestion */
    for (size_t i = 0; names != NULL && i < s->n; i++) names[i] = s->table[i].name;
    const char *const nearest = names != NULL ? hn_nearest(name, names, s->n) : NULL;
    hn_free(names);
    if (nearest == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: no option is called '%.80s' (--help lists them)", place,
                       name);
    return HN_FAIL(HN_ERR_ARG, "%s: no option is called '%.80s'; did you mean '%s'?", place, name,
                   nearest);
}

hn_status hn_option_set(hn_options_store *s, size_t index, const char *value, const char *place)
{
    char *checked = NULL;
    HN_TRY(hn_option_check(&s->table[index], value, place, &checked));
    hn_free(s->text[index]);
    s->text[index] = checked;
    return HN_OK;
}

static hn_status set_defaults(hn_options_store *s)
{
    char place[PLACE_TEXT];
    for (size_t i = 0; i < s->n; i++) {
        const hn_option *const o = &s->table[i];
        if (o->kind == HN_OPT_HEADING || o->initial == NULL) continue;
        snprintf(place, sizeof place, "default of %s", o->name);
        HN_TRY(hn_option_set(s, i, o->initial, place));
    }
    return HN_OK;
}

/* One word of the command line, taken apart. */
typedef struct {
    const char *name; /* without "--" */
    size_t name_length;
    const char *value; /* behind '='; NULL: none */
    bool dashed;
} word;

static word word_of(const char *arg)
{
    word w = {.name = arg};
    if (arg[0] == '-' && arg[1] == '-') w = (word){.name = arg + 2, .dashed = true};
    w.name_length = strcspn(w.name, "=");
    if (w.name[w.name_length] == '=') w.value = w.name + w.name_length + 1;
    return w;
}

/* The value of "--name value" or "--name=value"; *at moves on when it takes the next word. */
static hn_status take_value(const word *w, int argc, char *const *argv, int *at, const char **value)
{
    const int n = w->name_length < 80 ? (int)w->name_length : 80;
    if (w->value != NULL) {
        *value = w->value;
        return HN_OK;
    }
    if (*at + 1 >= argc) return HN_FAIL(HN_ERR_ARG, "--%.*s needs a value", n, w->name);
    const char *const next = argv[*at + 1];
    if (next[0] == '-' && next[1] == '-')
        return HN_FAIL(HN_ERR_ARG, "--%.*s needs a value; to pass '%.80s' write --%.*s=%.80s", n,
                       w->name, next, n, w->name, next);
    (*at)++;
    *value = next;
    return HN_OK;
}

/* --flag and --no-flag without a value; false when `w` is neither. */
static bool as_bare_flag(const hn_options_store *s, const word *w, size_t *index,
                         const char **value)
{
    if (!w->dashed || w->value != NULL) return false;
    size_t i = hn_option_find(s, w->name, w->name_length);
    *value = "on";
    if (i == s->n && w->name_length > 3 && strncmp(w->name, "no", 2) == 0 &&
        (w->name[2] == '-' || w->name[2] == '_')) {
        i = hn_option_find(s, w->name + 3, w->name_length - 3);
        *value = "off";
    }
    if (i == s->n || s->table[i].kind != HN_OPT_FLAG) return false;
    *index = i;
    return true;
}

static hn_status take_unknown(const hn_options_store *s, const word *w, const char *arg)
{
    char *const name = hn_strndup(w->name, w->name_length);
    if (name == NULL) return HN_FAIL(HN_ERR_MEMORY, "options: %zu bytes", w->name_length + 1);
    const hn_status st = hn_option_unknown(s, name, arg);
    hn_free(name);
    return st;
}

static hn_status take_word(hn_options_store *s, int argc, char *const *argv, int *at)
{
    const char *const arg = argv[*at];
    const word w = word_of(arg);
    const char *value = w.value;
    size_t index = s->n;
    char place[PLACE_TEXT];
    if (w.name_length == 0 || (!w.dashed && (arg[0] == '-' || w.value == NULL)))
        return HN_FAIL(HN_ERR_ARG, "'%.80s' is neither --name nor name=value", arg);
    if (!as_bare_flag(s, &w, &index, &value)) {
        index = hn_option_find(s, w.name, w.name_length);
        if (index == s->n) return take_unknown(s, &w, arg);
        HN_TRY(take_value(&w, argc, argv, at, &value));
    }
    snprintf(place, sizeof place, "%s%s", w.dashed ? "--" : "", s->table[index].name);
    HN_TRY(hn_option_set(s, index, value, place));
    s->given[index] = true;
    return HN_OK;
}

/* Words from left to right, up to --help; *config_path is left alone without --config. */
static hn_status take_line(hn_options_store *s, int argc, char *const *argv,
                           const char **config_path)
{
    const char *path = NULL;
    for (int i = 1; i < argc; i++) {
        const word w = word_of(argv[i]);
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            s->help_wanted = true;
            return HN_OK;
        }
        if (!w.dashed || !same_name("config", w.name, w.name_length)) {
            HN_TRY(take_word(s, argc, argv, &i));
            continue;
        }
        const char *value = NULL;
        HN_TRY(take_value(&w, argc, argv, &i, &value));
        if (path != NULL)
            return HN_FAIL(HN_ERR_ARG, "--config is given twice: %.200s and %.200s", path, value);
        *config_path = path = value;
    }
    return HN_OK;
}

static hn_status find_missing(const hn_options_store *s)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->table[i].kind != HN_OPT_HEADING && s->text[i] == NULL)
            return HN_FAIL(HN_ERR_ARG, "--%s is missing: %s", s->table[i].name, s->table[i].help);
    return HN_OK;
}

hn_status hn_options_parse(const hn_option *table, size_t n, int argc, char *const *argv,
                           void *config, hn_options_store **store)
{
    hn_status st = HN_OK;
    hn_options_store *s = NULL;
    const char *config_path = NULL;
    HN_TRY_GOTO(st, store_make(table, n, &s), done);
    HN_TRY_GOTO(st, set_defaults(s), done);
    HN_TRY_GOTO(st, take_line(s, argc, argv, &config_path), done);
    if (!s->help_wanted) {
        /* The file comes second and leaves alone what the command line has given. */
        if (config_path != NULL) HN_TRY_GOTO(st, hn_options_read_yaml(s, config_path), done);
        HN_TRY_GOTO(st, find_missing(s), done);
        for (size_t i = 0; i < n; i++) hn_option_assign(&table[i], s->text[i], config);
    }
    *store = s;
    s = NULL;

done:
    hn_options_free(s);
    return st;
}

bool hn_options_help_wanted(const hn_options_store *s) { return s->help_wanted; }

bool hn_options_given(const hn_options_store *s, const char *name)
{
    const size_t i = hn_option_find(s, name, strlen(name));
    return i < s->n && s->given[i];
}
