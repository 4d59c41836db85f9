/* regex.h - one expression against one short text, through PCRE2.
 *
 * The expression comes from a file: its size, its nesting and the work of matching are limited,
 * and what goes beyond is an error instead of a hang. Compiled at each call: for the few hundred
 * module paths of a model that is nothing.
 */
#ifndef HN_REGEX_H
#define HN_REGEX_H
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Must `before` + expression + `after` match the whole text or (whole false) its beginning?
 * what      names the expression's place in errors ("f.json: key 'x'")
 * number    NULL, or out: the digits captured by the group called `idx`; -1 when they are more
 *           than 18 or the group is not set
 * Errors    HN_ERR_FORMAT, HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_regex_match(const char *before, const char *expression, const char *after,
                                      bool whole, const char *text, const char *what, bool *matched,
                                      int64_t *number);

#ifdef __cplusplus
}
#endif
#endif
