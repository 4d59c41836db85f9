/* progress.h - how far a long piece of work is: one line with rate and remaining time.
 *
 * On a terminal the line is rewritten in place, at most ten times a second, cut to the
 * width of the terminal; elsewhere whole lines are written, every so many steps or seconds.
 *
 *   step 120/1000  12%  loss 2.345  lr 1.0e-4  1.23k tokens/s  2m 05s left
 *
 * Rates are averages that forget with a time constant of 20 seconds; time spent between
 * hn_progress_pause and _resume (evaluation, saving) does not count.
 * The struct is plain and nothing is allocated: a progress line may be shown inside a planned
 * step. One thread at a time.
 */
#ifndef HN_PROGRESS_H
#define HN_PROGRESS_H
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    FILE *to;         /* NULL: silent */
    bool is_tty;      /* rewrite one line */
    bool color;       /* with ANSI colours (only where is_tty) */
    int width;        /* columns of the terminal; 0: ask it before every line, else 80 */
    int64_t every;    /* without a terminal: a line every so many steps; 0: does not matter */
    double every_s;   /* without a terminal: and at least every so many seconds; 0: never */
    const char *step; /* "step", "file", ...; NULL: "step" */
    const char *unit; /* "tokens", "samples": what the second rate counts; NULL: no rate */
    int64_t (*now_ns)(void *context); /* NULL: hn_clock_ns */
    void *context;
} hn_progress_config;

typedef struct {
    hn_progress_config config;
    int64_t done, total;               /* steps */
    int64_t last_ns;                   /* of the last averaged update, moved on by pauses */
    int64_t last_done, last_units;     /* and what was complete then */
    int64_t shown_ns, shown_done;      /* when the last line was written, and at which step */
    int64_t pause_ns;                  /* when the pause began; -1: none */
    double weight_s, steps_s, units_s; /* sums that forget: seconds, steps, units */
    bool on_screen;                    /* an unfinished line stands on the terminal */
} hn_progress;

/* What fits the stream: is it a terminal (TERM=dumb is none), NO_COLOR and its width; a line
 * every 10 steps and every 30 seconds elsewhere. */
hn_progress_config hn_progress_detect(FILE *to);

/* Steps first+1 .. total are to be done; total 0: unknown. */
void hn_progress_start(hn_progress *p, const hn_progress_config *config, int64_t first,
                       int64_t total);
/* `done` steps are complete, `units` counted since the start. `detail` stands behind the
 * percentage ("loss 2.345"); NULL: nothing. Shows the line if it is due or the work complete. */
void hn_progress_update(hn_progress *p, int64_t done, int64_t units, const char *detail);
void hn_progress_pause(hn_progress *p);
void hn_progress_resume(hn_progress *p);
/* A whole line of text above the progress line. */
void hn_progress_say(hn_progress *p, const char *text);
/* Closes the line that stands on the terminal. */
void hn_progress_end(hn_progress *p);

/* Averages as shown, per second; 0 before two updates. */
double hn_progress_steps_per_s(const hn_progress *p);
double hn_progress_units_per_s(const hn_progress *p);
double hn_progress_left_s(const hn_progress *p); /* remaining seconds; -1: unknown */

enum { HN_SHORT_TEXT = 24 };
void hn_short_duration(double seconds, char out[HN_SHORT_TEXT]); /* "8s", "2m 05s", "3h 07m" */
void hn_short_number(double value, char out[HN_SHORT_TEXT]);     /* "12.3", "1.23k", "4.56M" */

#ifdef __cplusplus
}
#endif
#endif
