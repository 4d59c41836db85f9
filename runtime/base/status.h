/* status.h - how every function that can fail reports it.
 *
 * The return value is HN_OK or the code of the first failure. The place that
 * notices the failure also writes one line of text (HN_FAIL); everyone above
 * only hands the code up (HN_TRY, HN_TRY_GOTO). The text is kept per thread:
 * hn_last_error() just after a failed call describes that call. Control characters
 * in it are replaced by '?': it is one line, whatever a file's names contain.
 */
#ifndef HN_STATUS_H
#define HN_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* New codes go to the end; a number is never reused. */
/* clang-format off */
#define HN_STATUS_LIST(X)                                    \
    X(OK,              "success")                            \
    X(ERR_ARG,         "argument breaks the contract")       \
    X(ERR_SHAPE,       "shapes do not fit together")         \
    X(ERR_ALIGN,       "pointer is not aligned as required") \
    X(ERR_UNSUPPORTED, "no implementation for this request") \
    X(ERR_MEMORY,      "out of host or device memory")       \
    X(ERR_IO,          "file could not be read or made")     \
    X(ERR_FORMAT,      "file is damaged or of another kind") \
    X(ERR_CUDA,        "CUDA runtime or library call failed")\
    X(ERR_NUMERIC,     "a value became NaN or infinite")     \
    X(ERR_THREAD,      "a thread could not be started")      \
    X(ERR_COMM,        "another rank or the network failed") \
    X(ERR_STOPPED,     "the run was asked to stop")         \
    X(ERR_WRITE,       "no room, or the disk failed")

typedef enum {
#define X(name, text) HN_##name,
    HN_STATUS_LIST(X)
#undef X
    HN_STATUS_COUNT
} hn_status;
/* clang-format on */

#define HN_NODISCARD __attribute__((warn_unused_result))

const char *hn_status_name(hn_status s); /* "ERR_SHAPE"; never NULL */
const char *hn_last_error(void);         /* "" if this thread has not failed */
const char *hn_last_text(void);          /* the same without file, line and code */

/* What a program exits with: 0 success, 2 bad usage or input (argument, shape, format,
 * unreadable file, unsupported request), 1 a failure while running. */
int hn_status_exit_code(hn_status s);

hn_status hn_fail_(hn_status code, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#define HN_FAIL(code, ...) hn_fail_((code), __FILE__, __LINE__, __VA_ARGS__)

#define HN_TRY(call)                    \
    do {                                \
        const hn_status try_ = (call);  \
        if (try_ != HN_OK) return try_; \
    } while (0)

#define HN_TRY_GOTO(st, call, label)   \
    do {                               \
        (st) = (call);                 \
        if ((st) != HN_OK) goto label; \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
