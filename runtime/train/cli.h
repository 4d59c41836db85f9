/* cli.h - the command line of a trainer: `hone-lora VERB [options]`. */
#ifndef HN_CLI_H
#define HN_CLI_H
#include "runtime/train/method.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Runs a verb: train, check, plan, tune, eval, generate, predict, export, info. Results go to
 * standard output, what the work has to say to standard error. Returns the exit code: 0 done, 2 bad
 * usage or input, 1 a failure while running. */
int hn_trainer_main(const hn_method *m, int argc, char **argv);

/* First thing in a program that opens files: where a standard stream is closed (>&-) its number
 * would be the next file's, and that file would get what is printed. Something stands in its place
 * on which every read or write fails, as on a closed stream. */
void hn_hold_streams(void);

/* HN_ERR_WRITE where what was printed has not all gone out: a full disk, a closed stream. */
HN_NODISCARD hn_status hn_flush_output(void);
/* The same as the end of a program that has only printed something: says so, returns its exit code.
 */
int hn_end_output(const char *program);

/* Next in a program that uses OpenMP: starts it once more with waiting threads that do not
 * take the time of those they wait for. */
void hn_limit_spinning(char **argv);

#ifdef __cplusplus
}
#endif
#endif
