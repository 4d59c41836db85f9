/* companions.h - the files beside the weights that make a folder a model one can talk to. */
#ifndef HN_COMPANIONS_H
#define HN_COMPANIONS_H
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Copies the files of a tokenizer into the folder `to`, so that hn_tokenizer_load(to) gives the
 * same one.
 * tokenizer   what was given to hn_tokenizer_load: a folder, of which every tokenizer file is
 *             copied, or one file, which is copied with the settings beside it; a *.json of
 *             another name becomes tokenizer.json
 * Errors      HN_ERR_IO, HN_ERR_WRITE, HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_copy_tokenizer(const char *tokenizer, const char *to);

#ifdef __cplusplus
}
#endif
#endif
