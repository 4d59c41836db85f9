#include <inttypes.h>
#include <stdio.h>
#include <utf8proc.h>

#include "runtime/data/dataset.h"

/* "newline", "tab" or "'é' (U+00E9)". */
static void name_char(int64_t code, char *to, size_t size)
{
    utf8proc_uint8_t bytes[5] = {0};
    if (code == '\n')
        snprintf(to, size, "newline");
    else if (code == '\t')
        snprintf(to, size, "tab");
    else if (code < 0x20 || (code >= 0x7f && code < 0xa0))
        snprintf(to, size, "U+%04" PRIX64, (uint64_t)code);
    else {
        const utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)code, bytes);
        bytes[n > 0 && n < 5 ? n : 0] = 0;
        snprintf(to, size, "'%s' (U+%04" PRIX64 ")", (const char *)bytes, (uint64_t)code);
    }
}

static void report_unknown(const hn_dataset *d, const hn_log *log)
{
    const hn_token_stats *s = hn_dataset_stats(d);
    char list[512] = "";
    size_t n = 0;
    for (int i = 0; i < HN_UNK_TOP && s->unk_char[i] >= 0; i++) {
        char name[48];
        name_char(s->unk_char[i], name, sizeof name);
        const int m = snprintf(list + n, sizeof list - n, "%s%s x %" PRId64, i ? ", " : "", name,
                               s->unk_count[i]);
        if (m < 0 || (size_t)m >= sizeof list - n) break;
        n += (size_t)m;
    }
    hn_warn(log,
            "  %" PRId64 " tokens (%.2f %%) are <unk>: the vocabulary lacks %" PRId64
            " character(s) of these data%s%s",
            s->unk, 100.0 * (double)s->unk / (double)s->tokens, s->unk_kinds, n ? ": " : "", list);
}

void hn_dataset_report(const hn_dataset *d, const hn_log *log)
{
    const hn_token_stats *s = hn_dataset_stats(d);
    hn_info(log, "%s: format %s", hn_dataset_name(d), hn_data_format_name(hn_dataset_format(d)));
    hn_info(log,
            "  %" PRId64 " rows, %" PRId64 " used; dropped: %" PRId64 " empty, %" PRId64
            " without a trained token",
            s->rows, s->samples, s->dropped_empty, s->dropped_masked);
    hn_info(log,
            "  %" PRId64 " tokens; a sample has %" PRId64 " (min), %" PRId64 " (median), %" PRId64
            " (95 %%), %" PRId64 " (max)",
            s->tokens, s->token_min, s->token_median, s->token_p95, s->token_max);
    hn_info(log, "  %" PRId64 " trained tokens (%.1f %%)", s->trained,
            100.0 * (double)s->trained / (double)s->tokens);
    if (s->joined > 0)
        hn_warn(log,
                "  in %" PRId64 " rows the prompt's last token also holds the completion's first "
                "characters; it is trained",
                s->joined);
    if (s->unk > 0) report_unknown(d, log);
}
