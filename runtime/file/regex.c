#define PCRE2_CODE_UNIT_WIDTH 8
#include "runtime/file/regex.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"

enum {
    MAX_EXPRESSION = 8192,
    MAX_WORK = 1000000, /* PCRE2's count of internal match() calls; a plain match needs < 1000 */
    MAX_HEAP_KIB = 16384,
};

static hn_status compile(const char *expression, bool whole, const char *what, pcre2_code **out)
{
    int code = 0;
    PCRE2_SIZE at = 0;
    const uint32_t options =
        PCRE2_ANCHORED | PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C | (whole ? PCRE2_ENDANCHORED : 0);
    *out = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED, options, &code, &at, NULL);
    if (*out != NULL) return HN_OK;
    PCRE2_UCHAR text[120] = "?";
    pcre2_get_error_message(code, text, sizeof text);
    return HN_FAIL(HN_ERR_FORMAT, "%s: regular expression '%.200s', at %zu: %s", what, expression,
                   (size_t)at, (const char *)text);
}

static int64_t captured_number(pcre2_match_data *data)
{
    PCRE2_UCHAR digits[20];
    PCRE2_SIZE n = sizeof digits;
    if (pcre2_substring_copy_byname(data, (PCRE2_SPTR) "idx", digits, &n) != 0 || n > 18) return -1;
    return strtoll((const char *)digits, NULL, 10);
}

hn_status hn_regex_match(const char *before, const char *expression, const char *after, bool whole,
                         const char *text, const char *what, bool *matched, int64_t *number)
{
    hn_status st = HN_OK;
    pcre2_code *code = NULL;
    pcre2_match_data *data = NULL;
    pcre2_match_context *context = NULL;
    if (strlen(expression) > MAX_EXPRESSION)
        return HN_FAIL(HN_ERR_FORMAT, "%s: regular expression of %zu bytes, at most %d", what,
                       strlen(expression), MAX_EXPRESSION);
    char *full = hn_asprintf("%s%s%s", before, expression, after);
    if (full == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s: no memory to match", what);
    HN_TRY_GOTO(st, compile(full, whole, what, &code), done);
    data = pcre2_match_data_create_from_pattern(code, NULL);
    context = pcre2_match_context_create(NULL);
    if (data == NULL || context == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "%s: no memory to match", what);
        goto done;
    }
    pcre2_set_match_limit(context, MAX_WORK);
    pcre2_set_heap_limit(context, MAX_HEAP_KIB);
    const int rc = pcre2_match(code, (PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, 0, 0, data, context);
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
        PCRE2_UCHAR why[120] = "?";
        pcre2_get_error_message(rc, why, sizeof why);
        st = HN_FAIL(HN_ERR_FORMAT, "%s: regular expression '%.200s' on '%.200s': %s", what,
                     expression, text, (const char *)why);
        goto done;
    }
    *matched = rc >= 0;
    if (number != NULL) *number = rc >= 0 ? captured_number(data) : -1;

done:
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
    pcre2_code_free(code);
    hn_free(full);
    return st;
}
