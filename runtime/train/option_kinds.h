/* option_kinds.h - which options say nothing to a run: those of the other kind of model, and those
 * that are without effect beside the others. */
#ifndef HN_OPTION_KINDS_H
#define HN_OPTION_KINDS_H
#include "runtime/train/session.h"

#ifdef __cplusplus
extern "C" {
#endif

/* When the model is known. Errors: HN_ERR_ARG naming an option of the other kind of model that was
 * given */
HN_NODISCARD hn_status hn_check_option_kinds(const hn_session *s);

/* Of a run, before anything is opened. Errors: those of hn_run_config_check; HN_ERR_ARG naming an
 * option of the method that was given and is idle (method.h) */
HN_NODISCARD hn_status hn_check_run_options(const hn_session *s);

/* Of eval, in the same way. Errors: HN_ERR_ARG */
HN_NODISCARD hn_status hn_check_eval_options(const hn_session *s);

/* The options that reproduce the run, as hn_options_yaml writes them. Those of the other kind of
 * model are left out, idle ones, and those that a loaded adapter decides: giving them is an error.
 * yaml     out, hn_free it */
HN_NODISCARD hn_status hn_record_options(const hn_session *s, const hn_option_table *table,
                                         char **yaml);

#ifdef __cplusplus
}
#endif
#endif
