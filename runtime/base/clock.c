#define _POSIX_C_SOURCE 200809L
#include "runtime/base/clock.h"

#include <time.h>

int64_t hn_clock_ns(void)
{
    struct timespec t = {0};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

double hn_clock_wall_s(void)
{
    struct timespec t = {0};
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void hn_clock_date(double wall_s, char out[HN_DATE_TEXT])
{
    struct tm parts;
    out[0] = '\0';
    if (!(wall_s >= -62167219200.0 && wall_s < 253402300800.0)) return; /* years 0 to 9999 */
    const time_t seconds = (time_t)wall_s;
    if (gmtime_r(&seconds, &parts) == NULL) return;
    if (strftime(out, HN_DATE_TEXT, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0) out[0] = '\0';
}
