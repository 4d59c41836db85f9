#include "runtime/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char last_error[1024];
static _Thread_local size_t last_text; /* where its text begins, behind "file:line: code: " */

const char *hn_status_name(hn_status s)
{
    static const char *const names[] = {
#define X(name, text) #name,
        HN_STATUS_LIST(X)
#undef X
    };
    return (unsigned)s < HN_STATUS_COUNT ? names[s] : "ERR_UNKNOWN";
}

const char *hn_last_error(void) { return last_error; }

const char *hn_last_text(void) { return last_error + last_text; }

int hn_status_exit_code(hn_status s)
{
    switch (s) {
    case HN_OK: return 0;
    case HN_ERR_ARG:
    case HN_ERR_SHAPE:
    case HN_ERR_UNSUPPORTED:
    case HN_ERR_IO:
    case HN_ERR_FORMAT: return 2;
    default: return 1;
    }
}

hn_status hn_fail_(hn_status code, const char *file, int line, const char *fmt, ...)
{
    char text[sizeof last_error]; /* an argument may be hn_last_error() itself */
    const char *base = strrchr(file, '/');
    const int n = snprintf(text, sizeof text, "%s:%d: %s: ", base ? base + 1 : file, line,
                           hn_status_name(code));
    if (n >= 0 && (size_t)n < sizeof text) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(text + n, sizeof text - (size_t)n, fmt, ap);
        va_end(ap);
    }
    for (char *p = text; *p; p++) /* names come from files: no line breaks, no terminal escapes */
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
    memcpy(last_error, text, sizeof last_error);
    last_text = n > 0 && (size_t)n < sizeof text ? (size_t)n : 0;
    return code;
}
