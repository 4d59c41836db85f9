#include "runtime/base/log.h"

#include <stdarg.h>

static void say(const hn_log *log, hn_log_level level, const char *fmt, va_list ap)
{
    char text[1024];
    if (log == NULL || log->line == NULL) return;
    vsnprintf(text, sizeof text, fmt, ap);
    for (char *p = text; *p; p++) /* as in hn_fail_: names come from files */
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
    log->line(log->context, level, text);
}

void hn_info(const hn_log *log, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(log, HN_LOG_INFO, fmt, ap);
    va_end(ap);
}

void hn_warn(const hn_log *log, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(log, HN_LOG_WARN, fmt, ap);
    va_end(ap);
}
