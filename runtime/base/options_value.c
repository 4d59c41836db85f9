/* From the text of a value to the value, and back to "what would have been right". */
#define _POSIX_C_SOURCE 200809L
#include "runtime/base/options_impl.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "runtime/base/alloc.h"

static const double exact_limit = 9007199254740992.0; /* 2^53 */

/* strtod alone would also take blanks, hex, "nan" and "infinity". */
static bool read_real(const char *s, double *out)
{
    char *end = NULL;
    if (*s == '\0' || s[strspn(s, "0123456789+-.eE")] != '\0') return false;
    errno = 0;
    const double v = strtod(s, &end);
    if (end == s || *end != '\0' || !isfinite(v)) return false;
    if (errno == ERANGE && v == 0.0) return false; /* too small for a double: not what was asked */
    *out = v;
    return true;
}

static bool read_int(const char *s, int64_t *out)
{
    const char *const digits = s + (*s == '-' || *s == '+');
    double v = 0;
    if (*digits != '\0' && digits[strspn(digits, "0123456789")] == '\0') {
        errno = 0;
        const long long whole = strtoll(s, NULL, 10);
        if (errno != 0) return false;
        *out = whole;
        return true;
    }
    if (!read_real(s, &v) || floor(v) != v || fabs(v) > exact_limit) return false;
    *out = (int64_t)v;
    return true;
}

static bool read_flag(const char *s, bool *out)
{
    static const char *const words[] = {"off", "on", "false", "true", "no", "yes"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcasecmp(s, words[i]) != 0) continue;
        *out = i % 2 == 1;
        return true;
    }
    return false;
}

static bool is_choice(const char *choices, const char *word, size_t length)
{
    for (const char *c = choices;; c += strcspn(c, "|") + 1) {
        const size_t n = strcspn(c, "|");
        if (n == length && memcmp(c, word, n) == 0) return true;
        if (c[n] == '\0') return false;
    }
}

static hn_status check_number(const hn_option *o, double v, const char *value, const char *place)
{
    const bool limited = o->min != 0 || o->max != 0;
    if (limited && !(v >= o->min && v <= o->max))
        return HN_FAIL(HN_ERR_ARG, "%s: %.80s is outside %.15g to %.15g", place, value, o->min,
                       o->max);
    return HN_OK;
}

/* Copies the items without the blanks around them; each must be a choice. */
static hn_status check_list(const hn_option *o, const char *value, const char *place, char *out)
{
    const char *s = value + strspn(value, " ");
    char *to = out;
    *to = '\0';
    if (*s == '\0') return HN_OK;
    for (;; s++) {
        s += strspn(s, " ");
        const char *const end = s + strcspn(s, ",");
        size_t n = (size_t)(end - s);
        while (n > 0 && s[n - 1] == ' ') n--;
        if (n == 0) return HN_FAIL(HN_ERR_ARG, "%s: empty item in '%.80s'", place, value);
        if (o->choices != NULL && !is_choice(o->choices, s, n))
            return HN_FAIL(HN_ERR_ARG, "%s: '%.*s' is none of %s", place, n < 80 ? (int)n : 80, s,
                           o->choices);
        memcpy(to, s, n);
        to += n;
        s = end;
        if (*s == '\0') break;
        *to++ = ',';
    }
    *to = '\0';
    return HN_OK;
}

static hn_status check_as(const hn_option *o, const char *value, const char *place, char *out)
{
    double real = 0;
    int64_t whole = 0;
    bool flag = false;
    switch (o->kind) {
    case HN_OPT_TEXT:
        if (o->choices == NULL || is_choice(o->choices, value, strlen(value))) return HN_OK;
        if (*value == '\0' && o->initial != NULL && *o->initial == '\0') return HN_OK; /* not set */
        return HN_FAIL(HN_ERR_ARG, "%s: '%.80s' is none of %s", place, value, o->choices);
    case HN_OPT_INT:
        if (read_int(value, &whole)) return check_number(o, (double)whole, value, place);
        return HN_FAIL(HN_ERR_ARG, "%s: '%.80s' is not a whole number of 64 bits", place, value);
    case HN_OPT_REAL:
        if (read_real(value, &real)) return check_number(o, real, value, place);
        return HN_FAIL(HN_ERR_ARG, "%s: '%.80s' is not a finite decimal number", place, value);
    case HN_OPT_FLAG:
        if (read_flag(value, &flag)) return HN_OK;
        return HN_FAIL(HN_ERR_ARG, "%s: '%.80s' is none of on, off, true, false, yes, no", place,
                       value);
    case HN_OPT_LIST: return check_list(o, value, place, out);
    case HN_OPT_HEADING: break;
    }
    return HN_FAIL(HN_ERR_ARG, "%s: a heading takes no value", place);
}

hn_status hn_option_check(const hn_option *o, const char *value, const char *place, char **out)
{
    char *copy = hn_strdup(value); /* a normalised list is never longer */
    if (copy == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s: %zu bytes", place, strlen(value) + 1);
    const hn_status st = check_as(o, value, place, copy);
    if (st != HN_OK) {
        hn_free(copy);
        return st;
    }
    *out = copy;
    return HN_OK;
}

void hn_option_assign(const hn_option *o, const char *checked, void *config)
{
    char *const field = (char *)config + o->offset;
    int64_t whole = 0;
    double real = 0;
    bool flag = false;
    switch (o->kind) { /* memcpy: the field's own type, whatever struct it sits in */
    case HN_OPT_TEXT: memcpy(field, &checked, sizeof checked); break;
    case HN_OPT_LIST: memcpy(field, &(hn_text_list){checked}, sizeof(hn_text_list)); break;
    case HN_OPT_INT:
        if (read_int(checked, &whole)) memcpy(field, &whole, sizeof whole);
        break;
    case HN_OPT_REAL:
        if (read_real(checked, &real)) memcpy(field, &real, sizeof real);
        break;
    case HN_OPT_FLAG:
        if (read_flag(checked, &flag)) memcpy(field, &flag, sizeof flag);
        break;
    case HN_OPT_HEADING: break;
    }
}

int64_t hn_text_list_item(hn_text_list list, int64_t index, char *out, size_t size)
{
    const char *s = list.joined;
    if (s == NULL || *s == '\0' || index < 0) return -1;
    for (; index > 0; index--) {
        s += strcspn(s, ",");
        if (*s == '\0') return -1;
        s++;
    }
    const size_t n = strcspn(s, ",");
    if (n < size) {
        memcpy(out, s, n);
        out[n] = '\0';
    }
    return (int64_t)n;
}
