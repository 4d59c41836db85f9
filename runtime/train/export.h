/* export.h - results in formats that other tools read, each read back before success is said. */
#ifndef HN_EXPORT_H
#define HN_EXPORT_H
#include "runtime/train/session.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One way to write a result. `write` works on the session's engine, planned with its probe and
 * loaded from that checkpoint. What was written is loaded again into the same engine and must give
 * the same logits: bit for bit for an adapter; for a merged model within what rounding to the
 * file's type leaves (reported). Afterwards the engine holds what was read back.
 * Errors: HN_ERR_NUMERIC when the logits differ: the folder is left for inspection */
typedef struct {
    const char *kind;   /* of --kind */
    const char *what;   /* "PEFT adapter" */
    const char *folder; /* of a run's result, in its folder */
    bool replaces;      /* an older folder is removed first */
    hn_status (*write)(hn_session *s, const char *checkpoint, const char *dir);
} hn_export_kind;

/* kind  of --kind; auto: what the method's runs end with.
 * Errors  HN_ERR_ARG: the method does not write that kind */
HN_NODISCARD hn_status hn_export_find(const hn_method *m, const char *kind,
                                      const hn_export_kind **out);

#ifdef __cplusplus
}
#endif
#endif
