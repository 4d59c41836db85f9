/* cl_metrics.h - what continual learning has gained and lost: the accuracy matrix of a stream of
 * tasks, the metrics that are read from it, and their files.
 *
 * a_{t,i} is the accuracy on task i (its test set) after task t has been learned; tasks count from
 * 1, a_{0,i} is that of the network before the first task (random or pre-trained weights). Names
 * and formulas are those of Avalanche (ContinualAI/avalanche, avalanche/evaluation/metrics:
 * accuracy.py, forgetting_bwt.py, forward_transfer.py, read at commits 07aef642 and 050ccd88);
 * after task t:
 *
 *   Top1_Acc_Exp               a_{t,i}
 *   ExperienceForgetting       f_{t,i} = a_{i,i} - a_{t,i}                 i < t
 *   ExperienceBWT              -f_{t,i}                                    i < t
 *   ExperienceForwardTransfer  a_{i-1,i} - a_{0,i}                         2 <= i <= t + 1
 *   StreamForgetting           mean of f_{t,i} over i < t; 0 for t = 1
 *   StreamBWT                  -StreamForgetting
 *   StreamForwardTransfer      mean of ExperienceForwardTransfer over 2 <= i <= min(t + 1, T); 0
 *                              where there is none
 *
 * (the last as Lopez-Paz and Ranzato, arXiv 1706.08840, have it for t = T), and two that Avalanche
 * has no name for, with the forgetting of Chaudhry et al., arXiv 1801.10112:
 *
 *   AverageAccuracy             A_t = mean of a_{t,i} over i <= t
 *   AverageIncrementalAccuracy  mean of A_j over j <= t
 *   MaxForgetting               mean over i < t of max_{i<=j<t} a_{j,i} - a_{t,i}; 0 for t = 1
 *
 * (Avalanche's Top1_Acc_Stream weighs tasks by their images: it is AverageAccuracy where all have
 * as many.) An accuracy that was not measured is NaN and so is what needs it: forward transfer
 * wants the tasks to come evaluated, and the network before the first one.
 *
 * Accuracies are shares from 0 to 1. Files are written atomically (hn_save_file).
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_MEMORY, HN_ERR_IO, HN_ERR_WRITE,
 *            HN_ERR_FORMAT.
 */
#ifndef HN_CL_METRICS_H
#define HN_CL_METRICS_H
#include <stdint.h>

#include "runtime/base/json.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_cl hn_cl;

/* Nothing measured. tasks: T, 1 to 10000. */
HN_NODISCARD hn_status hn_cl_new(int64_t tasks, hn_cl **out);
void hn_cl_free(hn_cl *c); /* accepts NULL */
int64_t hn_cl_tasks(const hn_cl *c);

/* 0 <= after <= T, 1 <= task <= T, 0 <= accuracy <= 1; a second value replaces the first. */
HN_NODISCARD hn_status hn_cl_put(hn_cl *c, int64_t after, int64_t task, double accuracy);
double hn_cl_accuracy(const hn_cl *c, int64_t after, int64_t task); /* NaN: not measured */
/* The last t with a measured a_{t,i}, i <= t; 0: none. */
int64_t hn_cl_last(const hn_cl *c);

/* For one task; NaN where it is not defined (the ranges above) or not measured. */
double hn_cl_forgetting(const hn_cl *c, int64_t after, int64_t task);
double hn_cl_bwt(const hn_cl *c, int64_t after, int64_t task);
double hn_cl_forward_transfer(const hn_cl *c, int64_t task);

typedef struct {
    double average_accuracy, average_incremental_accuracy;
    double stream_forgetting, stream_bwt, stream_forward_transfer;
    double max_forgetting;
} hn_cl_summary;

/* After task `after`, 1 to T. */
HN_NODISCARD hn_status hn_cl_summarize(const hn_cl *c, int64_t after, hn_cl_summary *out);

/* The matrix: "after_task,task_1,task_2,..."; rows from 0 on, empty cells where nothing was
 * measured, rows without a value left out. 9 digits. */
HN_NODISCARD hn_status hn_cl_save_accuracy_csv(const hn_cl *c, const char *path);
/* Everything by name: "after_task,metric,task,value", a row for each number there is; `task` is
 * empty for metrics of the whole stream. */
HN_NODISCARD hn_status hn_cl_save_metrics_csv(const hn_cl *c, const char *path);

/* One cell of a table, in a file that is there when the cell is done:
 *   { "cell": about, "tasks": T, "accuracy": [[a_{0,1}, ...], ...] T + 1 rows, "after_task": t,
 *     "metrics": { "AverageAccuracy": ..., ... , "ExperienceForgetting": [T], ... } }
 * with t the last task, null for what is not there.
 * about   NULL or an object: method, seed, parameters, times; borrowed */
HN_NODISCARD hn_status hn_cl_save_json(const hn_cl *c, const json_t *about, const char *path);
/* The matrix of such a file or of a part of a checkpoint. `where` names it in errors. */
HN_NODISCARD hn_status hn_cl_from_json(const json_t *object, const char *where, hn_cl **out);

#ifdef __cplusplus
}
#endif
#endif
