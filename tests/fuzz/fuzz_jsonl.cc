/* Any bytes as a data file: rows, detection, templates; no tokenizer. The first byte chooses the
 * kind of file, small limits, and the options. */
#include <cstdint>
#include <cstdlib>
#include <string>

#include "runtime/data/source.h"
#include "runtime/data/template.h"

static void read_rows(const hn_template &t, hn_source *s, int64_t from, int64_t to)
{
    hn_rendered r = {};
    if (hn_source_select(s, from, to) != HN_OK) abort();
    for (hn_row row;;) {
        if (hn_source_next(s, &row) != HN_OK) abort(); /* opening has read it all */
        if (row.text == nullptr) break;
        if (hn_template_row(&t, &row, hn_source_about(s)->is_text, 1000, &r) != HN_OK) continue;
        if (r.n_prompt > r.n_bytes) abort();
    }
    hn_rendered_free(&r);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"f.jsonl", "f.json", "f.txt", "f.jsonl.gz"};
    if (size == 0) return 0;
    const unsigned choice = data[0];
    const bool small = (choice & 4) != 0;
    const hn_source_limits limits = {.piece_bytes = small ? 64 : 0,
                                     .max_row_bytes = small ? 256 : 0};
    /* a copy of its own, so that reading past the end is seen */
    std::string bytes((const char *)data + 1, size - 1);
    bytes.shrink_to_fit();
    hn_source *s = nullptr;
    if (hn_source_open_memory(names[choice & 3], bytes.data(), bytes.size(), &limits, &s) != HN_OK)
        return 0;
    hn_template t = {};
    if (choice & 8) {
        t.prompt_key = "q";
        t.completion_key = "a";
        t.separator = "\n";
    }
    if (choice & 16) t.format = (hn_data_format)(choice >> 5);
    const int64_t n = hn_source_about(s)->n_units;
    if (hn_template_settle(&t, s, nullptr) == HN_OK) {
        int64_t cut = n;
        read_rows(t, s, 0, n);
        if (hn_source_split(s, 0.3, &cut) == HN_OK) {
            read_rows(t, s, 0, cut);
            read_rows(t, s, cut, n);
        }
    }
    hn_source_close(s);
    return 0;
}
