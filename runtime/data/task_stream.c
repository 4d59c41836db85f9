#include "runtime/data/task_stream.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/rng.h"
#include "runtime/data/data_util.h"
#include "runtime/data/loader.h" /* HN_LABEL_IGNORED */

struct hn_task_stream {
    int32_t *class; /* of all tasks, one behind the other */
    int64_t *first; /* [n_tasks + 1] */
    int64_t n_class, class_room, n_tasks, first_room;
    int32_t *place; /* [n_classes] in the stream, -1: in no task */
    int32_t n_classes;
    char *text;
};

/* ---- building ---- */

static hn_status add_class(hn_task_stream *t, int32_t class)
{
    HN_TRY(hn_reserve(&t->class, &t->class_room, t->n_class + 1, sizeof *t->class));
    t->class[t->n_class++] = class;
    return HN_OK;
}

/* Everything since the last end is a task. */
static hn_status end_task(hn_task_stream *t)
{
    HN_TRY(hn_reserve(&t->first, &t->first_room, t->n_tasks + 2, sizeof *t->first));
    t->first[0] = 0;
    t->first[++t->n_tasks] = t->n_class;
    return HN_OK;
}

/* The class that text[0 .. n) names, or the ends of a range of numbers. */
static hn_status parse_class(const hn_image_set *s, const char *text, size_t n, int32_t *from,
                             int32_t *to)
{
    while (n > 0 && *text == ' ') text++, n--;
    while (n > 0 && text[n - 1] == ' ') n--;
    char *name = hn_strndup(text, n), *end = NULL;
    hn_status st = HN_OK;
    if (name == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    *from = *to = hn_image_set_class(s, name);
    if (*from < 0 && *name >= '0' && *name <= '9') {
        const long a = strtol(name, &end, 10);
        if (*end == '-' && end[1] >= '0' && end[1] <= '9') {
            const long b = strtol(end + 1, &end, 10);
            if (*end == '\0' && a <= b && b < hn_image_set_view(s)->n_classes) {
                *from = (int32_t)a;
                *to = (int32_t)b;
            }
        }
    }
    if (n == 0)
        st = HN_FAIL(HN_ERR_ARG, "an empty name in the list of classes");
    else if (*from < 0)
        st = HN_FAIL(HN_ERR_ARG, "class '%s' is not in %s, which has %d (0..%d, '%s'..)", name,
                     hn_image_set_name(s), (int)hn_image_set_view(s)->n_classes,
                     (int)hn_image_set_view(s)->n_classes - 1, hn_image_set_view(s)->class_name[0]);
    hn_free(name);
    return st;
}

static hn_status read_list(const hn_image_set *s, const char *list, bool tasks, hn_task_stream *t)
{
    for (const char *at = list;;) {
        const size_t n = strcspn(at, tasks ? ",/" : ",");
        int32_t from = 0, to = 0;
        HN_TRY(parse_class(s, at, n, &from, &to));
        for (int32_t c = from; c <= to; c++) HN_TRY(add_class(t, c));
        if (at[n] != ',') HN_TRY(end_task(t));
        if (at[n] == '\0') return HN_OK;
        at += n + 1;
    }
}

/* Names both places of a class that stands where it may not. */
static hn_status check_repeats(const hn_image_set *s, const hn_task_stream *t, bool allowed)
{
    const hn_images *v = hn_image_set_view(s);
    int32_t *task_of = hn_malloc((size_t)v->n_classes * sizeof *task_of);
    hn_status st = HN_OK;
    if (task_of == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %d classes", v->n_classes);
    for (int32_t c = 0; c < v->n_classes; c++) task_of[c] = -1;
    for (int32_t k = 0; k < t->n_tasks && st == HN_OK; k++)
        for (int64_t i = t->first[k]; i < t->first[k + 1] && st == HN_OK; i++) {
            const int32_t c = t->class[i];
            if (task_of[c] == k)
                st = HN_FAIL(HN_ERR_ARG, "class %d ('%s') stands twice in task %d", (int)c,
                             v->class_name[c], (int)k);
            else if (task_of[c] >= 0 && !allowed)
                st = HN_FAIL(HN_ERR_ARG,
                             "class %d ('%s') is in task %d and again in task %d: repeats must be "
                             "allowed",
                             (int)c, v->class_name[c], (int)task_of[c], (int)k);
            task_of[c] = k;
        }
    hn_free(task_of);
    return st;
}

/* Fisher and Yates. */
static void shuffle(int32_t *class, int64_t n, uint64_t seed)
{
    const hn_rng rng = hn_rng_make(seed, 0, hn_hash_name("data.classes"));
    for (int64_t i = n - 1; i > 0; i--) {
        const int64_t k = (int64_t)hn_rng_below(rng, (uint64_t)i, 0, (uint64_t)i + 1);
        const int32_t kept = class[i];
        class[i] = class[k];
        class[k] = kept;
    }
}

static hn_status cut(const hn_task_options *o, hn_task_stream *t)
{
    const int64_t n = t->n_class, step = o->increment ? o->increment : n;
    const int64_t start = o->init_cls ? o->init_cls : step;
    if (start > n)
        return HN_FAIL(HN_ERR_ARG, "the first task has %" PRId64 " classes, the data %" PRId64,
                       start, n);
    if (o->increment && (n - start) % step != 0)
        return HN_FAIL(HN_ERR_ARG,
                       "%" PRId64 " classes are not %" PRId64 " and then tasks of %" PRId64
                       ": the last would have %" PRId64,
                       n, start, step, (n - start) % step);
    t->n_class = start;
    HN_TRY(end_task(t));
    while (t->n_class < n) {
        t->n_class += o->increment ? step : n - start;
        HN_TRY(end_task(t));
    }
    return HN_OK;
}

static hn_status build(const hn_image_set *s, const hn_task_options *o, hn_task_stream *t)
{
    const hn_images *v = hn_image_set_view(s);
    const bool cuts = o->init_cls != 0 || o->increment != 0;
    const bool orders = o->order != NULL || o->shuffle;
    if (o->init_cls < 0 || o->increment < 0)
        return HN_FAIL(HN_ERR_ARG, "init_cls %" PRId64 ", increment %" PRId64 ": not negative",
                       o->init_cls, o->increment);
    if ((o->tasks != NULL) + cuts + o->by_part > 1 || (o->order != NULL && o->shuffle) ||
        (orders && (o->tasks != NULL || o->by_part)))
        return HN_FAIL(HN_ERR_ARG,
                       "tasks are a list, or cut (init_cls, increment) from an order that is given "
                       "or shuffled, or the joined data sets: one of them");
    if (o->allow_repeats && o->tasks == NULL)
        return HN_FAIL(HN_ERR_ARG, "only a list of tasks can repeat a class");
    if (o->by_part && v->n_parts < 2)
        return HN_FAIL(HN_ERR_ARG, "%s: a single data set, not joined ones that could be tasks",
                       hn_image_set_name(s));
    if (o->tasks != NULL) {
        HN_TRY(read_list(s, o->tasks, true, t));
        return check_repeats(s, t, o->allow_repeats);
    }
    if (o->order != NULL) {
        HN_TRY(read_list(s, o->order, false, t)); /* one task so far */
        HN_TRY(check_repeats(s, t, false));
        t->n_tasks = 0;
        return cut(o, t);
    }
    for (int32_t c = 0; c < v->n_classes; c++) HN_TRY(add_class(t, c));
    if (!o->by_part) {
        if (o->shuffle) shuffle(t->class, t->n_class, o->seed);
        return cut(o, t);
    }
    for (int k = 0; k < v->n_parts; k++) {
        t->n_class = v->part_class[k + 1];
        HN_TRY(end_task(t));
    }
    return HN_OK;
}

static hn_status settle(const hn_image_set *s, hn_task_stream *t)
{
    int32_t places = 0;
    size_t n = 0;
    const size_t room = (size_t)t->n_class * 12 + 1; /* a number and what follows it */
    t->n_classes = hn_image_set_view(s)->n_classes;
    t->place = hn_malloc((size_t)t->n_classes * sizeof *t->place);
    t->text = hn_malloc(room);
    if (t->place == NULL || t->text == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %d classes", (int)t->n_classes);
    t->text[0] = '\0';
    for (int32_t c = 0; c < t->n_classes; c++) t->place[c] = -1;
    for (int64_t k = 0; k < t->n_tasks; k++)
        for (int64_t i = t->first[k]; i < t->first[k + 1]; i++) {
            const int32_t c = t->class[i];
            if (t->place[c] < 0) t->place[c] = places++;
            n += (size_t)snprintf(t->text + n, room - n, "%s%d",
                                  i == 0             ? ""
                                  : i == t->first[k] ? "/"
                                                     : ",",
                                  (int)c);
        }
    return HN_OK;
}

hn_status hn_task_stream_make(const hn_image_set *s, const hn_task_options *o, hn_task_stream **out)
{
    hn_status st = HN_OK;
    hn_task_stream *t = hn_calloc(1, sizeof *t);
    if (t == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a stream of tasks", sizeof *t);
    HN_TRY_GOTO(st, build(s, o, t), done);
    HN_TRY_GOTO(st, settle(s, t), done);
    *out = t;
    t = NULL;

done:
    hn_task_stream_free(t);
    return st;
}

void hn_task_stream_free(hn_task_stream *t)
{
    if (t == NULL) return;
    hn_free(t->class);
    hn_free(t->first);
    hn_free(t->place);
    hn_free(t->text);
    hn_free(t);
}

/* ---- what callers read ---- */

int hn_task_stream_tasks(const hn_task_stream *t) { return (int)t->n_tasks; }
const char *hn_task_stream_text(const hn_task_stream *t) { return t->text; }

int32_t hn_task_stream_classes(const hn_task_stream *t, int task, const int32_t **classes)
{
    *classes = t->class + t->first[task];
    return (int32_t)(t->first[task + 1] - t->first[task]);
}

int32_t hn_task_stream_seen(const hn_task_stream *t, int tasks)
{
    int32_t most = 0; /* places are given in the order of the stream */
    for (int64_t i = 0; i < t->first[tasks]; i++)
        if (t->place[t->class[i]] + 1 > most) most = t->place[t->class[i]] + 1;
    return most;
}

int32_t hn_task_stream_place(const hn_task_stream *t, int32_t class_of_data)
{
    return class_of_data >= 0 && class_of_data < t->n_classes ? t->place[class_of_data] : -1;
}

/* ---- views ---- */

void hn_image_view_free(hn_image_view *v)
{
    if (v == NULL) return;
    hn_free(v->index);
    hn_free(v->label);
    *v = (hn_image_view){0};
}

/* called[c]: what the images of class c are labelled in these tasks, -1: not in them. */
static void call_classes(const hn_task_stream *t, int first, int end, hn_task_labels labels,
                         int32_t *called)
{
    for (int32_t c = 0; c < t->n_classes; c++) called[c] = -1;
    for (int64_t i = t->first[first]; i < t->first[end]; i++) {
        const int32_t c = t->class[i];
        called[c] = labels == HN_LABELS_TASK     ? (int32_t)(i - t->first[first])
                    : labels == HN_LABELS_STREAM ? t->place[c]
                                                 : c;
    }
}

hn_status hn_task_labels_fill(const hn_task_stream *t, const hn_image_set *s, int first, int end,
                              hn_task_labels labels, int32_t *label)
{
    const hn_images *v = hn_image_set_view(s);
    if (first < 0 || end <= first || end > t->n_tasks)
        return HN_FAIL(HN_ERR_ARG, "tasks %d..%d of a stream of %" PRId64, first, end - 1,
                       t->n_tasks);
    if (labels == HN_LABELS_TASK && end != first + 1)
        return HN_FAIL(HN_ERR_ARG, "tasks %d..%d together have no labels of one task", first,
                       end - 1);
    if (v->n_classes != t->n_classes)
        return HN_FAIL(HN_ERR_ARG, "%s has %d classes, the data of the stream %d",
                       hn_image_set_name(s), (int)v->n_classes, (int)t->n_classes);
    int64_t n = 0;
    int32_t *called = hn_malloc((size_t)t->n_classes * sizeof *called);
    if (called == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %d classes", (int)t->n_classes);
    call_classes(t, first, end, labels, called);
    for (int64_t i = 0; i < v->count; i++) {
        const int32_t c = called[v->label[i]];
        label[i] = c < 0 ? HN_LABEL_IGNORED : c;
        n += c >= 0;
    }
    hn_free(called);
    if (n == 0)
        return HN_FAIL(HN_ERR_FORMAT, "task %d: %s has no image of its classes", first,
                       hn_image_set_name(s));
    return HN_OK;
}

static int32_t classes_of(const hn_task_stream *t, int first, int end, hn_task_labels labels)
{
    switch (labels) {
    case HN_LABELS_TASK: return (int32_t)(t->first[end] - t->first[first]);
    case HN_LABELS_STREAM: return hn_task_stream_seen(t, (int)t->n_tasks);
    default: return t->n_classes;
    }
}

hn_status hn_task_view_make(const hn_task_stream *t, const hn_image_set *s, int first, int end,
                            hn_task_labels labels, hn_image_view *out)
{
    const int64_t count = hn_image_set_view(s)->count;
    hn_image_view view = {0};
    hn_status st = HN_OK;
    int32_t *all = hn_malloc((size_t)count * sizeof *all);
    if (all == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " labels", count);
        goto done;
    }
    HN_TRY_GOTO(st, hn_task_labels_fill(t, s, first, end, labels, all), done);
    for (int64_t i = 0; i < count; i++) view.n += all[i] >= 0;
    view.n_classes = classes_of(t, first, end, labels);
    view.index = hn_malloc((size_t)view.n * sizeof *view.index);
    view.label = hn_malloc((size_t)view.n * sizeof *view.label);
    if (view.index == NULL || view.label == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for the %" PRId64 " images of a task", view.n);
        goto done;
    }
    for (int64_t i = 0, k = 0; i < count; i++) {
        if (all[i] < 0) continue;
        view.index[k] = (int32_t)i;
        view.label[k++] = all[i];
    }
    *out = view;
    view = (hn_image_view){0};

done:
    hn_image_view_free(&view);
    hn_free(all);
    return st;
}

/* ---- report ---- */

static int64_t images_of(const hn_task_stream *t, int task, const hn_image_set *s)
{
    const hn_images *v = hn_image_set_view(s);
    int64_t n = 0;
    for (int64_t i = 0; i < v->count; i++)
        for (int64_t k = t->first[task]; k < t->first[task + 1]; k++)
            if (v->label[i] == t->class[k]) {
                n++;
                break;
            }
    return n;
}

/* "cat, dog, ... and 8 more" */
static void list_classes(const hn_task_stream *t, int task, const hn_image_set *s, char *to,
                         size_t room)
{
    enum { TAIL = 24 };
    size_t n = 0;
    to[0] = '\0';
    for (int64_t k = t->first[task]; k < t->first[task + 1]; k++) {
        const char *name = hn_image_set_view(s)->class_name[t->class[k]];
        if (n + strlen(name) + 2 + TAIL > room) {
            snprintf(to + n, room - n, " and %" PRId64 " more", t->first[task + 1] - k);
            return;
        }
        n += (size_t)snprintf(to + n, room - n, "%s%s", n ? ", " : "", name);
    }
}

void hn_task_stream_report(const hn_task_stream *t, const hn_image_set *train,
                           const hn_image_set *eval, const hn_log *log)
{
    int32_t unused = 0;
    for (int32_t c = 0; c < t->n_classes; c++) unused += t->place[c] < 0;
    hn_info(log, "%" PRId64 " tasks, %d classes", t->n_tasks, (int)(t->n_classes - unused));
    for (int k = 0; k < t->n_tasks; k++) {
        char list[128], held[48] = "";
        list_classes(t, k, train, list, sizeof list);
        if (eval != NULL)
            snprintf(held, sizeof held, ", %" PRId64 " held out", images_of(t, k, eval));
        hn_info(log, "  task %d: %" PRId64 " images%s; %" PRId64 " classes: %s", k,
                images_of(t, k, train), held, t->first[k + 1] - t->first[k], list);
    }
    if (unused > 0) hn_warn(log, "  %d class(es) are in no task", (int)unused);
}
