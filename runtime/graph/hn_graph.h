/* hn_graph.h - the face of runtime/graph: all that other folders and programs include of it. */
#ifndef HN_FACE_GRAPH_H
#define HN_FACE_GRAPH_H
#include "runtime/graph/graph.h"
#include "runtime/graph/op.h"
#include "runtime/graph/plan.h"
#include "runtime/graph/run.h"
#include "runtime/graph/shards.h"
#include "runtime/graph/tensor.h"
#endif
