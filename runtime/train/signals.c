#define _POSIX_C_SOURCE 200809L
#include "runtime/train/signals.h"

#include <signal.h>
#include <stddef.h>

/* A signal handler can reach nothing but a global; this is the one exception to "no globals"
 * besides the allocator's counters. */
static volatile sig_atomic_t caught, interrupts;

static void note(int number)
{
    if (number == SIGINT && interrupts++ > 0) { /* asked twice: end at once, as without a handler */
        signal(number, SIG_DFL);
        raise(number);
    }
    if (caught == 0) caught = number;
}

void hn_signals_watch(void)
{
    struct sigaction a = {.sa_handler = note, .sa_flags = SA_RESTART};
    sigemptyset(&a.sa_mask);
    caught = interrupts = 0;
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGUSR1, &a, NULL);
}

void hn_signals_release(void)
{
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGUSR1, SIG_DFL);
}

int hn_signals_caught(void) { return caught; }
const char *hn_signals_name(int number)
{
    return number == SIGTERM ? "SIGTERM" : number == SIGUSR1 ? "SIGUSR1" : "SIGINT";
}
