/* session_impl.h - private to session*.c: the two kinds of data. */
#ifndef HN_SESSION_IMPL_H
#define HN_SESSION_IMPL_H
#include "runtime/train/session.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- session_text.c ---- */

HN_NODISCARD hn_status hn_text_open(hn_session *s, bool held_out_only);
/* dry: a training run whose data are not there. */
HN_NODISCARD hn_status hn_text_job(hn_session *s, bool probe, bool dry);
HN_NODISCARD hn_status hn_text_probe(hn_session *s, float **out, int64_t *n);
void hn_text_close(hn_text_session *t);

/* ---- session_images.c ---- */

HN_NODISCARD hn_status hn_images_open(hn_session *s, bool held_out_only);
HN_NODISCARD hn_status hn_images_job(hn_session *s, bool probe, bool dry);
HN_NODISCARD hn_status hn_images_probe(hn_session *s, float **out, int64_t *n);
void hn_images_close(hn_image_session *t);

static inline const char *hn_text_or_null(const char *text) { return text && text[0] ? text : 0; }

#ifdef __cplusplus
}
#endif
#endif
