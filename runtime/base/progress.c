#define _POSIX_C_SOURCE 200809L
#include "runtime/base/progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "runtime/base/clock.h"

enum { LINE_TEXT = 512 };
static const int64_t redraw_ns = 100000000; /* ten lines a second */
static const double forget_s = 20.0;

static int64_t now(const hn_progress *p)
{
    return p->config.now_ns != NULL ? p->config.now_ns(p->config.context) : hn_clock_ns();
}

hn_progress_config hn_progress_detect(FILE *to)
{
    const char *const term = getenv("TERM"), *const no_color = getenv("NO_COLOR");
    const bool dumb = term == NULL || strcmp(term, "dumb") == 0;
    hn_progress_config c = {.to = to, .every = 10, .every_s = 30};
    c.is_tty = to != NULL && !dumb && isatty(fileno(to));
    c.color = c.is_tty && (no_color == NULL || *no_color == '\0');
    return c;
}

static int width_of(const hn_progress_config *c)
{
    struct winsize size;
    if (c->width > 0) return c->width;
    if (ioctl(fileno(c->to), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
    return 80;
}

void hn_progress_start(hn_progress *p, const hn_progress_config *config, int64_t first,
                       int64_t total)
{
    *p = (hn_progress){.config = *config, .done = first, .total = total, .pause_ns = -1};
    p->last_ns = p->shown_ns = now(p);
    p->last_done = p->shown_done = first;
}

double hn_progress_steps_per_s(const hn_progress *p)
{
    return p->weight_s > 0 ? p->steps_s / p->weight_s : 0;
}

double hn_progress_units_per_s(const hn_progress *p)
{
    return p->weight_s > 0 ? p->units_s / p->weight_s : 0;
}

double hn_progress_left_s(const hn_progress *p)
{
    const double rate = hn_progress_steps_per_s(p);
    if (p->total <= 0 || rate <= 0) return -1;
    return p->done < p->total ? (double)(p->total - p->done) / rate : 0;
}

void hn_short_duration(double seconds, char out[HN_SHORT_TEXT])
{
    const double most = 3600.0 * 24 * 9999;
    const long s = lround(seconds > 0 ? fmin(seconds, most) : 0);
    if (s < 60)
        snprintf(out, HN_SHORT_TEXT, "%lds", s);
    else if (s < 3600)
        snprintf(out, HN_SHORT_TEXT, "%ldm %02lds", s / 60, s % 60);
    else if (s < 86400)
        snprintf(out, HN_SHORT_TEXT, "%ldh %02ldm", s / 3600, s / 60 % 60);
    else
        snprintf(out, HN_SHORT_TEXT, "%ldd %02ldh", s / 86400, s / 3600 % 24);
}

void hn_short_number(double value, char out[HN_SHORT_TEXT])
{
    static const char *const suffixes[] = {"", "k", "M", "G", "T"};
    size_t i = 0;
    while (i + 1 < sizeof suffixes / sizeof *suffixes && fabs(value) >= 999.5) {
        value /= 1000;
        i++;
    }
    snprintf(out, HN_SHORT_TEXT, "%.3g%s", value, suffixes[i]);
}

/* ---- the line ---- */

/* A line under construction, cut at `columns`; a UTF-8 character counts as one column. */
typedef struct {
    char text[LINE_TEXT];
    size_t length;
    int columns;
} line;

static void append(line *l, const char *s)
{
    while (*s != '\0') {
        size_t n = 1;
        while (((unsigned char)s[n] & 0xc0) == 0x80) n++;
        if (l->columns == 0 || l->length + n >= sizeof l->text) return;
        /* A control character would move the cursor. */
        if (n == 1 && (unsigned char)*s < 0x20)
            l->text[l->length] = ' ';
        else
            memcpy(l->text + l->length, s, n);
        l->length += n;
        l->columns--;
        s += n;
    }
    l->text[l->length] = '\0';
}

static void build(const hn_progress *p, const char *detail, line *l)
{
    const double left = hn_progress_left_s(p);
    char part[96], number[HN_SHORT_TEXT];
    const char *const step = p->config.step != NULL ? p->config.step : "step";
    snprintf(part, sizeof part, "%.30s %lld", step, (long long)p->done);
    append(l, part);
    if (p->total > 0) {
        const double share = 100.0 * (double)p->done / (double)p->total;
        snprintf(part, sizeof part, "/%lld  %.0f%%", (long long)p->total, floor(share));
        append(l, part);
    }
    if (detail != NULL && *detail != '\0') {
        append(l, "  ");
        append(l, detail);
    }
    if (p->config.unit != NULL && p->weight_s > 0) {
        hn_short_number(hn_progress_units_per_s(p), number);
        snprintf(part, sizeof part, "  %s %.30s/s", number, p->config.unit);
        append(l, part);
    }
    if (left > 0) {
        hn_short_duration(left, number);
        snprintf(part, sizeof part, "  %s left", number);
        append(l, part);
    }
}

static void wipe(hn_progress *p)
{
    if (p->on_screen) fputs("\r\033[K", p->config.to);
    p->on_screen = false;
}

static void show(hn_progress *p, const char *detail)
{
    const hn_progress_config *const c = &p->config;
    /* The last column stays free: a terminal wraps there. */
    line l = {.columns = c->is_tty ? width_of(c) - 1 : LINE_TEXT};
    build(p, detail, &l);
    if (c->is_tty) {
        wipe(p);
        fprintf(c->to, c->color ? "\033[36m%s\033[0m" : "%s", l.text);
        p->on_screen = true;
    } else {
        fprintf(c->to, "%s\n", l.text);
    }
    fflush(c->to);
}

static bool is_due(const hn_progress *p, int64_t t)
{
    const hn_progress_config *const c = &p->config;
    const int64_t waited = t - p->shown_ns;
    if (p->total > 0 && p->done >= p->total) return p->shown_done < p->done;
    if (c->is_tty) return !p->on_screen || waited >= redraw_ns;
    if (c->every > 0 && p->done / c->every > p->shown_done / c->every) return true;
    return c->every_s > 0 && (double)waited >= 1e9 * c->every_s;
}

static void average(hn_progress *p, int64_t t, int64_t done, int64_t units)
{
    const double elapsed = 1e-9 * (double)(t - p->last_ns);
    if (!(elapsed > 0)) return; /* the clock's grain: these steps join the next update */
    const double keep = exp(-elapsed / forget_s);
    p->weight_s = keep * p->weight_s + elapsed;
    p->steps_s = keep * p->steps_s + (double)(done - p->last_done);
    p->units_s = keep * p->units_s + (double)(units - p->last_units);
    p->last_ns = t;
    p->last_done = done;
    p->last_units = units;
}

void hn_progress_update(hn_progress *p, int64_t done, int64_t units, const char *detail)
{
    const int64_t t = now(p);
    average(p, t, done, units);
    p->done = done;
    if (p->config.to == NULL || !is_due(p, t)) return;
    show(p, detail);
    p->shown_ns = t;
    p->shown_done = p->done;
}

void hn_progress_pause(hn_progress *p)
{
    if (p->pause_ns < 0) p->pause_ns = now(p);
}

void hn_progress_resume(hn_progress *p)
{
    if (p->pause_ns < 0) return;
    p->last_ns += now(p) - p->pause_ns;
    p->pause_ns = -1;
}

void hn_progress_say(hn_progress *p, const char *text)
{
    if (p->config.to == NULL) return;
    wipe(p);
    fprintf(p->config.to, "%s\n", text);
    fflush(p->config.to);
}

void hn_progress_end(hn_progress *p)
{
    if (p->config.to != NULL && p->on_screen) {
        fputc('\n', p->config.to);
        fflush(p->config.to);
    }
    p->on_screen = false;
}
