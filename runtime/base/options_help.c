#include <string.h>

#include "runtime/base/options.h"

enum { NAME_COLUMN = 30, LINE_WIDTH = 100, LEFT_TEXT = 160, RIGHT_TEXT = 1024 };

static const char *kind_word(const hn_option *o)
{
    switch (o->kind) {
    case HN_OPT_INT: return " N";
    case HN_OPT_REAL: return " X";
    case HN_OPT_LIST: return " A,B,...";
    case HN_OPT_TEXT: return o->choices != NULL ? " WORD" : " TEXT";
    default: return "";
    }
}

static void put_left(const hn_option *o, char left[LEFT_TEXT])
{
    snprintf(left, LEFT_TEXT, "  --%s%s%s", o->kind == HN_OPT_FLAG ? "[no-]" : "", o->name,
             kind_word(o));
}

/* "what it does: a, b or c (1 to 64; default 16)" */
static void put_right(const hn_option *o, char right[RIGHT_TEXT])
{
    char limits[80] = "", choices[400] = "", initial[200] = "required";
    if (o->choices != NULL) snprintf(choices, sizeof choices, ": %s", o->choices);
    if ((o->kind == HN_OPT_INT || o->kind == HN_OPT_REAL) && (o->min != 0 || o->max != 0))
        snprintf(limits, sizeof limits, "%.15g to %.15g; ", o->min, o->max);
    if (o->initial != NULL && *o->initial == '\0')
        snprintf(initial, sizeof initial, "%s",
                 o->kind == HN_OPT_LIST ? "default empty" : "not set");
    else if (o->initial != NULL)
        snprintf(initial, sizeof initial, "default %s", o->initial);
    snprintf(right, RIGHT_TEXT, "%s%s (%s%s)", o->help, choices, limits, initial);
}

/* `left`, then the words of `right` from NAME_COLUMN on, broken before LINE_WIDTH. */
static void put_entry(const char *left, const char *right, FILE *to)
{
    int column = fprintf(to, "%s", left);
    for (const char *s = right; *s != '\0';) {
        const int length = (int)strcspn(s, " ");
        const bool fits = column + 1 + length <= LINE_WIDTH;
        if ((s == right && column > NAME_COLUMN - 2) || (!fits && column > NAME_COLUMN)) {
            fputc('\n', to);
            column = 0;
        }
        const int blanks = column < NAME_COLUMN ? NAME_COLUMN - column : 1;
        column += fprintf(to, "%*s%.*s", blanks, "", length, s);
        s += length;
        s += strspn(s, " ");
    }
    fputc('\n', to);
}

void hn_options_help(const hn_option *table, size_t n, FILE *to)
{
    char left[LEFT_TEXT], right[RIGHT_TEXT];
    for (size_t i = 0; i < n; i++) {
        if (table[i].kind == HN_OPT_HEADING) {
            fprintf(to, "%s%s\n", i > 0 ? "\n" : "", table[i].help);
            continue;
        }
        put_left(&table[i], left);
        put_right(&table[i], right);
        put_entry(left, right, to);
    }
    fprintf(to, "\nEverywhere\n");
    put_entry("  --config FILE", "YAML with these names; what the command line says wins", to);
    put_entry("  -h, --help", "this text", to);
    fprintf(to, "\n'--name=value' and 'name=value' work too; the last one wins.\n");
}
