/* sparse_map.h - where the trained blocks of a run are, as a table and a picture.
 *
 *   support.csv   a row for each matrix: layer (the first number of its name, or the name), type
 *                 (the rest), out, in, blocks, chosen, density
 *   support.png   heat map of the density, layers x types, where gnuplot is on the PATH; else
 *                 support.gnuplot alone, which makes it: gnuplot support.gnuplot
 */
#ifndef HN_SPARSE_MAP_H
#define HN_SPARSE_MAP_H
#include "runtime/adapt/sparse.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out: the run's folder. *drawn: whether there is a picture */
HN_NODISCARD hn_status hn_sparse_map(const hn_sparse *s, const char *out, bool *drawn);

#ifdef __cplusplus
}
#endif
#endif
