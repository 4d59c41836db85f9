/* task_stream.h - the classes of an image set as tasks that come one after the other.
 *
 * Order     of the classes: as in the data, as given, or shuffled (a function of the seed alone).
 * Tasks     a list "0,1/2,3" (classes by number, by name, or as a range 4-9; / between tasks), or
 *           cut from the order: the first task has init_cls classes, every other `increment`; or
 *           each joined data set (A+B) is one. Cutting must come out even.
 * Repeats   a class in two tasks is an error unless repeats are allowed; twice in one task, always.
 *           A class may be in no task: its images are not used, and the report says so.
 * Labels    of a task's images: the place in the task (a head for each task), the place in the
 *           stream (one head that grows: task 0 has the first outputs), or as in the data. A class
 *           that is repeated keeps its first place in the stream.
 *
 * Errors    name the class. HN_ERR_ARG: a class outside the data, repeats, sizes that do not come
 *           out even; HN_ERR_MEMORY
 */
#ifndef HN_TASK_STREAM_H
#define HN_TASK_STREAM_H
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/log.h"
#include "runtime/base/status.h"
#include "runtime/data/images.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *tasks; /* the list; NULL: cut from the order */
    const char *order; /* classes with commas; NULL: of the data, or shuffled */
    bool shuffle;
    uint64_t seed;      /* of shuffle */
    int64_t init_cls;   /* 0: as increment */
    int64_t increment;  /* 0: everything that is left is one task */
    bool by_part;       /* each joined data set is a task; classes keep their order */
    bool allow_repeats; /* in `tasks` */
} hn_task_options;

typedef enum {
    HN_LABELS_TASK,   /* 0 .. classes of the task - 1 */
    HN_LABELS_STREAM, /* 0 .. classes of the stream - 1 */
    HN_LABELS_DATA    /* 0 .. classes of the data - 1 */
} hn_task_labels;

typedef struct hn_task_stream hn_task_stream;

/* s        only its classes are read, and not kept */
HN_NODISCARD hn_status hn_task_stream_make(const hn_image_set *s, const hn_task_options *o,
                                           hn_task_stream **out);
void hn_task_stream_free(hn_task_stream *t); /* accepts NULL */

int hn_task_stream_tasks(const hn_task_stream *t);
/* Classes of task i in order, by their numbers in the data; valid as long as the stream. */
int32_t hn_task_stream_classes(const hn_task_stream *t, int task, const int32_t **classes);
/* Different classes of tasks 0 .. tasks-1: outputs of a head that has grown so far. */
int32_t hn_task_stream_seen(const hn_task_stream *t, int tasks);
/* Place of a class of the data in the stream; -1: in no task. */
int32_t hn_task_stream_place(const hn_task_stream *t, int32_t class_of_data);
/* "0,1/2,3": what a checkpoint keeps, and a list that gives the same stream again. */
const char *hn_task_stream_text(const hn_task_stream *t);

/* Some images of a set and what they are called. */
typedef struct {
    int32_t *index; /* [n] numbers in the set, rising */
    int32_t *label; /* [n] in [0, n_classes) */
    int64_t n;
    int32_t n_classes;
} hn_image_view;

/* The images of tasks first .. end-1; one that is in several of them appears once.
 * s        the set that made the stream, or one with the same classes (held-out data)
 * labels   HN_LABELS_TASK for one task only
 * Errors   HN_ERR_ARG: no such tasks, another set of classes; HN_ERR_FORMAT: not a single image */
HN_NODISCARD hn_status hn_task_view_make(const hn_task_stream *t, const hn_image_set *s, int first,
                                         int end, hn_task_labels labels, hn_image_view *out);
void hn_image_view_free(hn_image_view *v); /* accepts an empty one */

/* The same as one label for each image of the set, for a device that keeps all of them: -100 where
 * the image is in none of the tasks.
 * label    out [count of s]
 * Errors   as hn_task_view_make */
HN_NODISCARD hn_status hn_task_labels_fill(const hn_task_stream *t, const hn_image_set *s,
                                           int first, int end, hn_task_labels labels,
                                           int32_t *label);

/* Says what the tasks are and how many images each has. eval may be NULL. */
void hn_task_stream_report(const hn_task_stream *t, const hn_image_set *train,
                           const hn_image_set *eval, const hn_log *log);

#ifdef __cplusplus
}
#endif
#endif
