/* export.h - results in formats that other tools read, each read back before success is said. */
#ifndef HN_EXPORT_H
#define HN_EXPORT_H
#include "runtime/train/session.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Both work on the session's engine, planned with its probe and loaded. What was written
 * is loaded again into the same engine and must give the same logits: bit for bit for an adapter;
 * for a merged model within what rounding to the file's type leaves (reported). Afterwards the
 * engine holds what was read back.
 * Errors: HN_ERR_NUMERIC when the logits differ: the folder is left for inspection */
HN_NODISCARD hn_status hn_export_peft(hn_session *s, const char *dir);
HN_NODISCARD hn_status hn_export_merged(hn_session *s, const char *dir);

#ifdef __cplusplus
}
#endif
#endif
