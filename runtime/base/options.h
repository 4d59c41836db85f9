/* options.h - command-line options as a table.
 *
 * The table is the only place that names an option: parsing, range checks,
 * defaults, --help and the run record all read it. The C type of the field
 * chooses the parser, so the two cannot disagree:
 *
 *   const char *  TEXT   anything, or one of `choices`; "" is how "not set" is written
 *   int64_t       INT    12, -3, 1e9, 2.5e3: whatever is exactly an integer
 *   double        REAL   decimal, finite
 *   bool          FLAG   on, off, true, false, yes, no
 *   hn_text_list  LIST   words without commas: a,b,c or a YAML sequence; "" is the empty list
 *
 * Spelling     --name value, --name=value, --flag, --no-flag, name=value. A name may hold one
 *              dot ("lora.rank"); '-' and '_' are the same in it. A value that starts with "--"
 *              needs the form --name=value.
 * Config file  --config FILE: YAML, one mapping; "lora.rank: 8" and "lora: {rank: 8}" mean the
 *              same. No anchors, aliases, tags, second documents or duplicate keys; numbers and
 *              flags unquoted. At most 1 MiB.
 * Order        defaults, then the config file, then the command line from left to right: the
 *              last one wins, and every value on the way must be valid.
 */
#ifndef HN_OPTIONS_H
#define HN_OPTIONS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    HN_OPT_HEADING, /* no option: the title above the rows that follow, in `help` */
    HN_OPT_TEXT,
    HN_OPT_INT,
    HN_OPT_REAL,
    HN_OPT_FLAG,
    HN_OPT_LIST
} hn_opt_kind;

typedef struct {
    const char *joined; /* "a,b,c"; "" when empty */
} hn_text_list;

typedef struct {
    const char *name; /* as typed after "--"; NULL in a heading */
    hn_opt_kind kind;
    size_t offset;       /* of the field in the config struct */
    const char *initial; /* default, spelled as a user would; NULL: must be given */
    double min, max;     /* inclusive, for INT and REAL; both 0: no limit */
    const char *choices; /* "lora|sparse|full" for TEXT and LIST; NULL: anything */
    const char *help;    /* what it does, with the unit */
} hn_option;

/* clang-format off */
#define HN_OPT(type, field)             \
    _Generic(((type *)0)->field,        \
             const char *: HN_OPT_TEXT, \
             int64_t:      HN_OPT_INT,  \
             double:       HN_OPT_REAL, \
             bool:         HN_OPT_FLAG, \
             hn_text_list: HN_OPT_LIST),\
    offsetof(type, field)

#define HN_OPT_TITLE(text) {NULL, HN_OPT_HEADING, 0, NULL, 0, 0, NULL, (text)}
/* clang-format on */

/* Owns every string that the config struct points to, and knows what the user has set. */
typedef struct hn_options_store hn_options_store;

/* Fills `config` from defaults, config file and argv[1..argc). argv[0], the program's or verb's
 * name, is skipped; argv is not needed afterwards.
 * config  changed only on success; its texts live as long as *store
 * store   out; hn_options_free frees it. After --help or -h it says so (hn_options_help_wanted);
 *         the words after it are not read, required options are not asked for, and config
 *         keeps what it had.
 * Errors  HN_ERR_ARG: unknown name (with the nearest one), value of the wrong type, out of range
 *         or not among the choices, required option missing; HN_ERR_FORMAT: not the YAML described
 *         above; HN_ERR_IO: config file unreadable; HN_ERR_MEMORY. Texts name the option, or
 *         file:line and the key, and what is accepted. */
HN_NODISCARD hn_status hn_options_parse(const hn_option *table, size_t n, int argc,
                                        char *const *argv, void *config, hn_options_store **store);
void hn_options_free(hn_options_store *s); /* accepts NULL */

bool hn_options_help_wanted(const hn_options_store *s);
/* The user has set it, in the config file or on the command line, even if to the default. */
bool hn_options_given(const hn_options_store *s, const char *name);

/* The table as a manual: headings, kinds, help, ranges, defaults; lines of at most 100 columns. */
void hn_options_help(const hn_option *table, size_t n, FILE *to);

/* The complete YAML that reproduces the run: parsing it gives the same config, bit for bit.
 * *text is freed with hn_free. Errors: HN_ERR_ARG when a text is not UTF-8 (YAML cannot hold
 * it) or a number is not finite; HN_ERR_MEMORY. */
HN_NODISCARD hn_status hn_options_yaml(const hn_option *table, size_t n, const void *config,
                                       char **text);

/* Takes the list apart: copies item `index` (from 0) to out when it fits into `size` bytes.
 * Returns the length of the item, -1 behind the last one. */
int64_t hn_text_list_item(hn_text_list list, int64_t index, char *out, size_t size);

#ifdef __cplusplus
}
#endif
#endif
