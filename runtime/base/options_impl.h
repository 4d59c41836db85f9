/* options_impl.h - what the parts of the options parser share; not for others. */
#ifndef HN_OPTIONS_IMPL_H
#define HN_OPTIONS_IMPL_H
#include "runtime/base/options.h"

#ifdef __cplusplus
extern "C" {
#endif

struct hn_options_store {
    const hn_option *table;
    size_t n;
    char **text; /* [n] the value that counts so far, checked; NULL: none yet */
    bool *given; /* [n] */
    bool help_wanted;
};

/* Checks a value as the user has spelled it; `place` opens the error text.
 * out  the value in the form that hn_option_store takes (lists without blanks); hn_free frees it
 * Errors: HN_ERR_ARG, HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_option_check(const hn_option *o, const char *value, const char *place,
                                       char **out);
/* Writes a checked value to its field; TEXT and LIST fields point to `checked` itself. */
void hn_option_assign(const hn_option *o, const char *checked, void *config);

/* Checks and keeps the value for option `index`. */
HN_NODISCARD hn_status hn_option_set(hn_options_store *s, size_t index, const char *value,
                                     const char *place);
/* Index of the option called so; s->n when there is none. */
size_t hn_option_find(const hn_options_store *s, const char *name, size_t length);
/* HN_ERR_ARG: "<place>: no option is called '<name>'; did you mean '...'?" */
HN_NODISCARD hn_status hn_option_unknown(const hn_options_store *s, const char *name,
                                         const char *place);

/* Takes every key of a YAML file. */
HN_NODISCARD hn_status hn_options_read_yaml(hn_options_store *s, const char *path);

#ifdef __cplusplus
}
#endif
#endif
