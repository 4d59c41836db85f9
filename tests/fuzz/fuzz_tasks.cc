/* Any bytes as a list of tasks or an order of classes; what is accepted must say a list that gives
 * the same stream again. */
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "runtime/data/task_stream.h"

static const hn_image_set *set()
{
    static const char *const names[] = {"ant", "bee", "a-b", "7", "1-2", "x y"};
    static const uint8_t pixel[6] = {};
    static const int32_t label[6] = {0, 1, 2, 3, 4, 5};
    static hn_image_set *s = nullptr;
    if (s == nullptr) {
        hn_images v = {};
        v.count = 6, v.h = v.w = v.c = 1, v.pixel = pixel, v.label = label;
        v.n_classes = 6, v.class_name = names;
        if (hn_image_set_make(&v, "fuzz", &s) != HN_OK) std::abort();
    }
    return s;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    const std::string text(reinterpret_cast<const char *>(data + 1), size - 1);
    hn_task_options o = {};
    if (data[0] & 1)
        o.order = text.c_str(), o.increment = data[0] >> 4;
    else
        o.tasks = text.c_str(), o.allow_repeats = (data[0] & 2) != 0;
    hn_task_stream *t = nullptr, *again = nullptr;
    if (hn_task_stream_make(set(), &o, &t) != HN_OK) return 0;
    const int n = hn_task_stream_tasks(t);
    hn_image_view v = {};
    for (int k = 0; k < n; k++) {
        if (hn_task_view_make(t, set(), k, k + 1, HN_LABELS_TASK, &v) != HN_OK) std::abort();
        for (int64_t i = 0; i < v.n; i++)
            if (v.label[i] < 0 || v.label[i] >= v.n_classes) std::abort();
        hn_image_view_free(&v);
    }
    hn_task_options same = {};
    same.tasks = hn_task_stream_text(t);
    same.allow_repeats = true;
    if (hn_task_stream_make(set(), &same, &again) != HN_OK ||
        std::strcmp(hn_task_stream_text(again), same.tasks) != 0)
        std::abort();
    hn_task_stream_free(t);
    hn_task_stream_free(again);
    return 0;
}
