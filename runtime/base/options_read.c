/* Reads a config file through libyaml's events. */
#define _POSIX_C_SOURCE 200809L
#include <stdarg.h>
#include <string.h>
#include <yaml.h>

#include "runtime/base/alloc.h"
#include "runtime/base/mapfile.h"
#include "runtime/base/options_impl.h"

enum { CONFIG_MAX = 1 << 20, NAME_TEXT = 128, PLACE_TEXT = 512 };

typedef struct {
    hn_options_store *s;
    const char *path;
    yaml_parser_t parser;
    yaml_event_t event; /* the current one; all zero: none */
    size_t *line;       /* [n] where the option was set, from 1; 0: not yet */
    size_t *section;    /* [n] where "lora:" opened, for every option "lora.*" */
} reader;

static size_t line_of(const reader *r) { return r->event.start_mark.line + 1; }

#define FAIL_AT(r, code, ...) fail_at((r), (code), line_of(r), __VA_ARGS__)

__attribute__((format(printf, 4, 5))) static hn_status fail_at(const reader *r, hn_status code,
                                                               size_t line, const char *fmt, ...)
{
    char text[PLACE_TEXT];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return HN_FAIL(code, "%.300s:%zu: %s", r->path, line, text);
}

/* Moves on to the next event; what hone's config files do not use is refused here. */
static hn_status next(reader *r)
{
    yaml_event_delete(&r->event);
    memset(&r->event, 0, sizeof r->event);
    if (!yaml_parser_parse(&r->parser, &r->event)) {
        const char *const problem = r->parser.problem != NULL ? r->parser.problem : "not YAML";
        if (r->parser.error == YAML_MEMORY_ERROR)
            return HN_FAIL(HN_ERR_MEMORY, "%.300s: YAML parser", r->path);
        return fail_at(r, HN_ERR_FORMAT, r->parser.problem_mark.line + 1, "column %zu: %s",
                       r->parser.problem_mark.column + 1, problem);
    }
    const yaml_char_t *anchor = NULL, *tag = NULL;
    switch (r->event.type) {
    case YAML_ALIAS_EVENT: anchor = r->event.data.alias.anchor; break;
    case YAML_SCALAR_EVENT:
        anchor = r->event.data.scalar.anchor;
        tag = r->event.data.scalar.tag;
        if (memchr(r->event.data.scalar.value, '\0', r->event.data.scalar.length) != NULL)
            return FAIL_AT(r, HN_ERR_FORMAT, "a value holds a zero byte");
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = r->event.data.sequence_start.anchor;
        tag = r->event.data.sequence_start.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = r->event.data.mapping_start.anchor;
        tag = r->event.data.mapping_start.tag;
        break;
    default: break;
    }
    if (anchor != NULL)
        return FAIL_AT(r, HN_ERR_FORMAT, "anchors and aliases are not supported ('%.80s')",
                       (const char *)anchor);
    if (tag != NULL)
        return FAIL_AT(r, HN_ERR_FORMAT, "tags are not supported ('%.80s')", (const char *)tag);
    return HN_OK;
}

static const char *scalar(const reader *r) { return (const char *)r->event.data.scalar.value; }

static bool is_plain(const reader *r)
{
    return r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

static bool is_null(const reader *r)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
    for (size_t i = 0; is_plain(r) && i < sizeof nulls / sizeof *nulls; i++)
        if (strcmp(scalar(r), nulls[i]) == 0) return true;
    return false;
}

/* The sequence that has just begun, as "a,b,c"; hn_free frees it. */
static hn_status join_items(reader *r, const char *name, char **out)
{
    char *joined = NULL;
    size_t length = 0;
    hn_status st = HN_OK;
    for (;;) {
        HN_TRY_GOTO(st, next(r), done);
        if (r->event.type == YAML_SEQUENCE_END_EVENT) break;
        if (r->event.type != YAML_SCALAR_EVENT || is_null(r) || *scalar(r) == '\0' ||
            strchr(scalar(r), ',') != NULL) {
            st = FAIL_AT(r, HN_ERR_ARG, "%s: every item is a word without commas", name);
            goto done;
        }
        const size_t n = r->event.data.scalar.length;
        char *const grown = hn_realloc(joined, length + n + 2);
        if (grown == NULL) {
            st = HN_FAIL(HN_ERR_MEMORY, "%s: %zu bytes", name, length + n + 2);
            goto done;
        }
        joined = grown;
        if (length > 0) joined[length++] = ',';
        memcpy(joined + length, scalar(r), n + 1);
        length += n;
    }
    if (joined == NULL && (joined = hn_strdup("")) == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "%s: 1 byte", name);
        goto done;
    }
    *out = joined;
    joined = NULL;

done:
    hn_free(joined);
    return st;
}

/* The value at the current event, for option `index`. */
static hn_status take_value(reader *r, size_t index)
{
    const hn_option *const o = &r->s->table[index];
    const size_t line = line_of(r);
    char place[PLACE_TEXT], *joined = NULL, *checked = NULL;
    hn_status st = HN_OK;
    snprintf(place, sizeof place, "%.300s:%zu: %s", r->path, line, o->name);
    if (r->line[index] != 0)
        return FAIL_AT(r, HN_ERR_ARG, "%s is already set in line %zu", o->name, r->line[index]);
    r->line[index] = line;
    if (r->event.type == YAML_SEQUENCE_START_EVENT && o->kind == HN_OPT_LIST) {
        HN_TRY_GOTO(st, join_items(r, o->name, &joined), done);
    } else if (r->event.type != YAML_SCALAR_EVENT) {
        return FAIL_AT(r, HN_ERR_ARG, "%s takes a single value", o->name);
    } else if (is_null(r)) {
        return FAIL_AT(r, HN_ERR_ARG, "%s has no value (\"\" is the empty text)", o->name);
    } else if (!is_plain(r) && o->kind != HN_OPT_TEXT && o->kind != HN_OPT_LIST) {
        return FAIL_AT(r, HN_ERR_ARG, "%s: \"%.80s\" is a text: leave out the quotes", o->name,
                       scalar(r));
    }
    HN_TRY_GOTO(st, hn_option_check(o, joined != NULL ? joined : scalar(r), place, &checked), done);
    if (!r->s->given[index]) { /* else the command line has had the last word */
        hn_free(r->s->text[index]);
        r->s->text[index] = checked;
        r->s->given[index] = true;
        checked = NULL;
    }

done:
    hn_free(joined);
    hn_free(checked);
    return st;
}

static hn_status unknown_key(const reader *r, const char *name, size_t line)
{
    char place[PLACE_TEXT];
    snprintf(place, sizeof place, "%.300s:%zu", r->path, line);
    return hn_option_unknown(r->s, name, place);
}

static hn_status read_key(reader *r, char name[NAME_TEXT])
{
    if (r->event.type != YAML_SCALAR_EVENT)
        return FAIL_AT(r, HN_ERR_ARG, "a key is the name of an option");
    if (r->event.data.scalar.length >= NAME_TEXT)
        return FAIL_AT(r, HN_ERR_ARG, "no option is called '%.80s...'", scalar(r));
    memcpy(name, scalar(r), r->event.data.scalar.length + 1);
    return HN_OK;
}

/* Marks every option of the section as opened; their number in *n_options. */
static hn_status open_section(reader *r, const char *section, size_t line, int *n_options)
{
    const size_t length = strlen(section);
    *n_options = 0;
    for (size_t i = 0; i < r->s->n; i++) {
        const char *const name = r->s->table[i].name;
        if (name == NULL || strncmp(name, section, length) != 0 || name[length] != '.') continue;
        if (r->section[i] != 0)
            return fail_at(r, HN_ERR_ARG, line, "%s is already set in line %zu", section,
                           r->section[i]);
        r->section[i] = line;
        (*n_options)++;
    }
    return HN_OK;
}

/* "lora: {rank: 8}", at the event that opens the inner mapping. */
static hn_status take_section(reader *r, const char *section, size_t line)
{
    char key[NAME_TEXT], name[2 * NAME_TEXT];
    int n_options = 0;
    HN_TRY(open_section(r, section, line, &n_options));
    HN_TRY(next(r));
    if (n_options == 0 && r->event.type == YAML_MAPPING_END_EVENT)
        return unknown_key(r, section, line);
    while (r->event.type != YAML_MAPPING_END_EVENT) {
        HN_TRY(read_key(r, key));
        const size_t key_line = line_of(r);
        snprintf(name, sizeof name, "%s.%s", section, key);
        const size_t index = hn_option_find(r->s, name, strlen(name));
        if (index == r->s->n) return unknown_key(r, name, key_line);
        HN_TRY(next(r));
        HN_TRY(take_value(r, index));
        HN_TRY(next(r));
    }
    return HN_OK;
}

static hn_status take_mapping(reader *r)
{
    char name[NAME_TEXT];
    HN_TRY(next(r));
    while (r->event.type != YAML_MAPPING_END_EVENT) {
        HN_TRY(read_key(r, name));
        const size_t line = line_of(r), index = hn_option_find(r->s, name, strlen(name));
        HN_TRY(next(r));
        if (index < r->s->n)
            HN_TRY(take_value(r, index));
        else if (r->event.type == YAML_MAPPING_START_EVENT)
            HN_TRY(take_section(r, name, line));
        else
            return unknown_key(r, name, line);
        HN_TRY(next(r));
    }
    return HN_OK;
}

static hn_status take_document(reader *r)
{
    HN_TRY(next(r)); /* start of the stream */
    HN_TRY(next(r));
    if (r->event.type == YAML_STREAM_END_EVENT) return HN_OK; /* nothing but comments */
    HN_TRY(next(r));
    if (r->event.type == YAML_MAPPING_START_EVENT)
        HN_TRY(take_mapping(r));
    else if (r->event.type != YAML_SCALAR_EVENT || !is_null(r))
        return FAIL_AT(r, HN_ERR_FORMAT, "a config file is one mapping: 'name: value' lines");
    HN_TRY(next(r)); /* end of the document */
    HN_TRY(next(r));
    if (r->event.type != YAML_STREAM_END_EVENT)
        return FAIL_AT(r, HN_ERR_FORMAT, "a second document begins here");
    return HN_OK;
}

hn_status hn_options_read_yaml(hn_options_store *s, const char *path)
{
    hn_status st = HN_OK;
    hn_mapfile file = {0};
    reader r = {.s = s, .path = path};
    bool parsing = false;
    HN_TRY_GOTO(st, hn_mapfile_open(path, &file), done);
    if (file.size > CONFIG_MAX) {
        st = HN_FAIL(HN_ERR_FORMAT, "%.300s: %zu bytes, a config file has at most %d", path,
                     file.size, CONFIG_MAX);
        goto done;
    }
    r.line = hn_calloc(s->n, sizeof *r.line);
    r.section = hn_calloc(s->n, sizeof *r.section);
    parsing = r.line != NULL && r.section != NULL && yaml_parser_initialize(&r.parser);
    if (!parsing) {
        st = HN_FAIL(HN_ERR_MEMORY, "%.300s: YAML parser", path);
        goto done;
    }
    yaml_parser_set_input_string(&r.parser, file.data != NULL ? file.data : (const yaml_char_t *)"",
                                 file.size);
    HN_TRY_GOTO(st, take_document(&r), done);

done:
    yaml_event_delete(&r.event);
    if (parsing) yaml_parser_delete(&r.parser);
    hn_free(r.line);
    hn_free(r.section);
    hn_mapfile_close(&file);
    return st;
}
