/* log.h - what the library has to say while it works.
 *
 * The library never prints: it hands lines to the sink the program has given it
 * in an hn_log. A NULL log swallows them. */
#ifndef HN_LOG_H
#define HN_LOG_H
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { HN_LOG_INFO, HN_LOG_WARN } hn_log_level;

typedef struct {
    void (*line)(void *context, hn_log_level level, const char *text); /* text: no newline */
    void *context;
} hn_log;

void hn_info(const hn_log *log, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void hn_warn(const hn_log *log, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#ifdef __cplusplus
}
#endif
#endif
