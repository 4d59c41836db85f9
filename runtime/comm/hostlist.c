#include "runtime/comm/hostlist.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { DIGITS_MAX = 9 };

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static bool is_host_char(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '.' || c == '_';
}

static hn_status wrong(const char *list, const char *at, const char *what)
{
    return HN_FAIL(HN_ERR_ARG, "list '%.160s'%s, at byte %td: %s", list,
                   strlen(list) > 160 ? "..." : "", at - list, what);
}

/* Digits at *at, which moves behind them. */
static hn_status number(const char *list, const char **at, int64_t *value, int *width)
{
    const char *const first = *at;
    int64_t v = 0;
    while (is_digit(**at) && *at - first <= DIGITS_MAX) v = 10 * v + (*(*at)++ - '0');
    if (*at == first) return wrong(list, first, "a number belongs here");
    if (*at - first > DIGITS_MAX) return wrong(list, first, "a number of at most 9 digits");
    *value = v;
    *width = (int)(*at - first);
    return HN_OK;
}

/* ---- hosts ---- */

/* A name that grows; `name` NULL: only counted. */
typedef struct {
    char *name;
    size_t n;
} name_end;

static bool put(name_end *e, const char *text, size_t n)
{
    if (e->name == NULL) return true;
    if (e->n + n >= HN_HOSTLIST_NAME) return false;
    memcpy(e->name + e->n, text, n);
    e->n += n;
    e->name[e->n] = '\0';
    return true;
}

/* One number or range of a group; *at moves behind it.
 * want  position in it whose text goes to e; outside: none */
static hn_status range(const char *list, const char **at, int64_t want, int64_t *n, name_end *e)
{
    const char *const first = *at;
    int64_t low = 0, high = 0;
    int width = 0, ignored = 0;
    HN_TRY(number(list, at, &low, &width));
    high = low;
    if (**at == '-') {
        ++*at;
        HN_TRY(number(list, at, &high, &ignored));
        if (high < low) return wrong(list, first, "a range runs upwards");
        if (high - low >= HN_HOSTLIST_MAX) return wrong(list, first, "more than 1048576 hosts");
    }
    *n = high - low + 1;
    if (want >= 0 && want < *n) {
        char text[24];
        const int length = snprintf(text, sizeof text, "%0*lld", width, (long long)(low + want));
        if (!put(e, text, (size_t)length)) return wrong(list, first, "a name of over 253 bytes");
    }
    return HN_OK;
}

/* A group, *at on its '['; moves behind the ']'. */
static hn_status group(const char *list, const char **at, int64_t want, int64_t *count, name_end *e)
{
    int64_t sum = 0;
    do {
        int64_t n = 0;
        ++*at; /* '[' or ',' */
        HN_TRY(range(list, at, want - sum, &n, e));
        sum += n;
        if (sum > HN_HOSTLIST_MAX) return wrong(list, *at, "more than 1048576 hosts");
    } while (**at == ',');
    if (**at != ']') return wrong(list, *at, "',' or ']' belongs here");
    ++*at;
    *count = sum;
    return HN_OK;
}

/* One item, *at on its first byte; moves to the ',' or the end behind it.
 * hosts   in, those of the item as a walk without `e->name` has found them (1 for that walk); out
 * want    which of them goes to e */
static hn_status item(const char *list, const char **at, int64_t want, int64_t *hosts, name_end *e)
{
    const char *const first = *at;
    int64_t product = 1, rest = *hosts;
    while (**at != '\0' && **at != ',') {
        if (**at == '[') {
            const char *const open = *at;
            int64_t n = 0;
            if (e->name != NULL) { /* its length first: it says which number is meant */
                const char *ahead = *at;
                name_end none = {0};
                HN_TRY(group(list, &ahead, -1, &n, &none));
                rest /= n;
            }
            HN_TRY(group(list, at, e->name ? want / rest % n : -1, &n, e));
            product *= n;
            if (product > HN_HOSTLIST_MAX) return wrong(list, open, "more than 1048576 hosts");
        } else {
            if (!is_host_char(**at)) return wrong(list, *at, "no byte of a host's name");
            if (!put(e, *at, 1)) return wrong(list, first, "a name of over 253 bytes");
            ++*at;
        }
    }
    if (*at == first) return wrong(list, first, "a host's name belongs here");
    *hosts = product;
    return HN_OK;
}

/* Walks the list; the name of host `index` goes to `name` unless it is NULL. */
static hn_status walk(const char *list, int64_t index, char *name, int64_t *count)
{
    const char *at = list;
    int64_t sum = 0;
    for (;; at++) {
        const char *const first = at;
        int64_t n = 1;
        name_end none = {0}, e = {.name = name};
        HN_TRY(item(list, &at, -1, &n, &none));
        if (name != NULL && index >= sum && index - sum < n) {
            const char *again = first;
            name[0] = '\0';
            HN_TRY(item(list, &again, index - sum, &n, &e));
        }
        sum += n;
        if (sum > HN_HOSTLIST_MAX) return wrong(list, first, "more than 1048576 hosts");
        if (*at == '\0') break;
    }
    *count = sum;
    return HN_OK;
}

hn_status hn_hostlist_count(const char *list, int64_t *n) { return walk(list, -1, NULL, n); }

hn_status hn_hostlist_name(const char *list, int64_t index, char name[HN_HOSTLIST_NAME])
{
    char found[HN_HOSTLIST_NAME];
    int64_t n = 0;
    HN_TRY(walk(list, index, found, &n));
    if (index < 0 || index >= n)
        return HN_FAIL(HN_ERR_ARG, "list '%.160s': host %lld of %lld", list, (long long)index,
                       (long long)n);
    memcpy(name, found, strlen(found) + 1);
    return HN_OK;
}

/* ---- counts of tasks ---- */

/* "(xN)" behind a count: *times; 1 without one. */
static hn_status repeat(const char *list, const char **at, int64_t *times)
{
    int width = 0;
    *times = 1;
    if (**at != '(') return HN_OK;
    if (*++*at != 'x') return wrong(list, *at, "'x' belongs here");
    ++*at;
    HN_TRY(number(list, at, times, &width));
    if (*times == 0) return wrong(list, *at, "no hosts");
    if (**at != ')') return wrong(list, *at, "')' belongs here");
    ++*at;
    return HN_OK;
}

hn_status hn_hostlist_tasks(const char *counts, int64_t index, int64_t *here, int64_t *hosts,
                            int64_t *total)
{
    const char *at = counts;
    int64_t n = 0, sum = 0, found = -1;
    for (;; at++) {
        const char *const first = at;
        int64_t tasks = 0, times = 0;
        int width = 0;
        HN_TRY(number(counts, &at, &tasks, &width));
        HN_TRY(repeat(counts, &at, &times));
        if (index >= n && index - n < times) found = tasks;
        n += times;
        sum += times * tasks; /* below 10^18 + 2^20 */
        if (n > HN_HOSTLIST_MAX || sum > HN_HOSTLIST_MAX)
            return wrong(counts, first, "more than 1048576 hosts or tasks");
        if (*at == '\0') break;
        if (*at != ',') return wrong(counts, at, "',' or '(x' belongs here");
    }
    if (found < 0)
        return HN_FAIL(HN_ERR_ARG, "list '%.160s': host %lld of %lld", counts, (long long)index,
                       (long long)n);
    *here = found;
    if (hosts != NULL) *hosts = n;
    if (total != NULL) *total = sum;
    return HN_OK;
}
