/* params_fit.h - whether a file has the tensors that a configuration declares.
 *
 * For files whose sizes stand in their own header: it is asked before anything of those sizes is
 * planned or allocated. */
#ifndef HN_PARAMS_FIT_H
#define HN_PARAMS_FIT_H
#include "runtime/adapt/params.h"
#include "runtime/file/safetensors.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Every declared parameter p is the file's tensor prefix + name, of its shape in files and of a
 * float type that hn_st_convert makes f32 of; values are not looked at. hn_params_create need not
 * have been called.
 * config  which of the file's texts declares them, for the message: "drift.config"
 * Errors  HN_ERR_FORMAT: a tensor that is missing, or has another shape or type, by name, with the
 *         shape that is declared; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_params_fit(const hn_params *p, const hn_st_file *file, const char *prefix,
                                     const char *config);

#ifdef __cplusplus
}
#endif
#endif
