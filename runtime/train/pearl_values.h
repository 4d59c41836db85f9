/* pearl_values.h - values of parameters in host memory, by name: what travels between the phases
 * of a task and into its record.
 *
 * Values are fp32 in the order and shape of files, [m, ...]: a layer's weight is the matrix [m, n]
 * of its rows, whatever storage makes of it (runtime/adapt/params.h). Names are unique in a set.
 * Errors     HN_ERR_MEMORY; HN_ERR_ARG: a name twice; those of params.h and safetensors.h
 */
#ifndef HN_PEARL_VALUES_H
#define HN_PEARL_VALUES_H
#include "runtime/adapt/params.h"
#include "runtime/base/arena.h"
#include "runtime/base/save.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *name;
    int ndim;
    int64_t dim[HN_PARAM_DIMS];
    int64_t n; /* values: the product of dim */
    float *v;  /* owned by the set */
} hn_value;

/* Zero before the first use. */
typedef struct {
    hn_arena names;
    hn_value *item;
    int64_t n, cap;
} hn_values;

void hn_values_free(hn_values *s);                              /* accepts an empty one */
hn_value *hn_values_find(const hn_values *s, const char *name); /* NULL when absent */
/* Columns of a value that is read as a matrix [dim[0], columns]. */
int64_t hn_value_cols(const hn_value *v);

/* One more, of zeros; *out is valid until the next one is added. */
HN_NODISCARD hn_status hn_values_add(hn_values *s, const char *name, int ndim, const int64_t *dim,
                                     hn_value **out);
/* Adds a copy, or replaces the values of that name, which have the same shape. */
HN_NODISCARD hn_status hn_values_put(hn_values *s, const hn_value *from);
/* hn_values_put of all. */
HN_NODISCARD hn_status hn_values_overlay(hn_values *s, const hn_values *from);
/* Takes one out; nothing happens where it is not there. */
void hn_values_drop(hn_values *s, const char *name);

/* Adds a parameter's values; a trained one's master. */
HN_NODISCARD hn_status hn_values_read(hn_values *s, const hn_param *q);
/* Sets a parameter from the value of its name. Errors also HN_ERR_SHAPE; HN_ERR_ARG: absent */
HN_NODISCARD hn_status hn_values_write(const hn_values *s, const hn_param *q);

/* w [m, n] += b [m, k] a [k, n], fp32, k ascending: the same bits on any number of threads. */
void hn_values_add_product(float *w, const float *b, const float *a, int64_t m, int64_t n,
                           int64_t k);

/* A safetensors file; metadata as in hn_st_save. */
HN_NODISCARD hn_status hn_values_save(const char *path, const hn_values *s,
                                      const char *const (*metadata)[2], int64_t n_metadata,
                                      char hex[HN_SHA256_HEX]);
/* Adds all tensors of such a file. Errors also HN_ERR_FORMAT: one that is not fp32 of 1 to 4
 * dimensions */
HN_NODISCARD hn_status hn_values_load(const char *path, hn_values *s);

#ifdef __cplusplus
}
#endif
#endif
