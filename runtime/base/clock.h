/* clock.h - the two clocks: one for durations, one for dates. */
#ifndef HN_CLOCK_H
#define HN_CLOCK_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_DATE_TEXT = 21 }; /* "2026-08-31T12:00:00Z" and the final zero */

int64_t hn_clock_ns(void);    /* nanoseconds since some fixed moment; never goes back */
double hn_clock_wall_s(void); /* seconds since 1970 UTC, for records only */

/* A moment since 1970 as an ISO 8601 date in UTC; "" for a year outside 0 to 9999. */
void hn_clock_date(double wall_s, char out[HN_DATE_TEXT]);

#ifdef __cplusplus
}
#endif
#endif
