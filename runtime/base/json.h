/* json.h - JSON through Jansson, with errors that name file, place and key.
 *
 * Jansson rejects duplicate keys and trailing garbage here. Getters leave *out
 * untouched when the key is absent and `required` is false; a value of the wrong
 * type or out of range is HN_ERR_FORMAT naming `where` (a path for the text) and key.
 */
#ifndef HN_JSON_H
#define HN_JSON_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/log.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Parses `size` bytes; `where` names them in errors. The caller owns *out (json_decref).
 * Errors: HN_ERR_FORMAT with line and column; HN_ERR_MEMORY. */
HN_NODISCARD hn_status hn_json_parse(const char *text, size_t size, const char *where,
                                     json_t **out);
/* Reads a whole file. Errors: HN_ERR_IO (also when it is missing) and those of hn_json_parse. */
HN_NODISCARD hn_status hn_json_load(const char *path, json_t **out);
/* Writes atomically (hn_save_file): 2 spaces of indent, keys sorted when `sorted`, final newline.
 */
HN_NODISCARD hn_status hn_json_save(const char *path, const json_t *value, bool sorted);

/* `required` false: an absent key or null leaves *out as it is. */
HN_NODISCARD hn_status hn_json_get_i64(const json_t *object, const char *key, const char *where,
                                       int64_t min, int64_t max, bool required, int64_t *out);
HN_NODISCARD hn_status hn_json_get_f64(const json_t *object, const char *key, const char *where,
                                       bool required, double *out);
HN_NODISCARD hn_status hn_json_get_bool(const json_t *object, const char *key, const char *where,
                                        bool required, bool *out);
/* *out borrows from the object. */
HN_NODISCARD hn_status hn_json_get_text(const json_t *object, const char *key, const char *where,
                                        bool required, const char **out);
/* One warning that lists the keys of an object that are not among the n known ones. */
void hn_json_warn_unknown(const json_t *object, const char *const *known, size_t n,
                          const char *where, const hn_log *log);

#ifdef __cplusplus
}
#endif
#endif
