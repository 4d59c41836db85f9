#define _POSIX_C_SOURCE 200809L
#include "runtime/train/run_settings.h"

#include <stdbool.h>
#include <string.h>

#include "runtime/base/alloc.h"

static bool decides(const char *line, const char *const *free_key, size_t n)
{
    if (line[0] == '#' || line[0] == '\0') return false;
    for (size_t i = 0; i < n; i++) {
        const size_t length = strlen(free_key[i]);
        if (strncmp(line, free_key[i], length) == 0 && line[length] == ':') return false;
    }
    return true;
}

hn_status hn_run_settings(const char *yaml, const char *const *free_key, size_t n, char **out)
{
    char *text = hn_strdup(yaml), *rest = NULL;
    char *settings = text ? hn_malloc(strlen(text) + 1) : NULL;
    if (settings == NULL) {
        hn_free(text);
        return HN_FAIL(HN_ERR_MEMORY, "no memory for the settings");
    }
    size_t at = 0;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (!decides(line, free_key, n)) continue;
        if (at > 0) settings[at++] = '\n';
        memcpy(settings + at, line, strlen(line));
        at += strlen(line);
    }
    settings[at] = '\0';
    hn_free(text);
    *out = settings;
    return HN_OK;
}

hn_status hn_run_settings_same(const char *where, const char *then, const char *now)
{
    if (strcmp(then, now) == 0) return HN_OK;
    for (;;) {
        const int n = (int)strcspn(then, "\n"), m = (int)strcspn(now, "\n");
        if (n != m || strncmp(then, now, (size_t)n) != 0 || then[n] == '\0' || now[m] == '\0')
            return HN_FAIL(HN_ERR_ARG, "%s: a run with other options: '%.*s', now '%.*s'", where, n,
                           then, m, now);
        then += n + 1;
        now += m + 1;
    }
}
