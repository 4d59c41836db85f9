/* hone.h - the whole library: #include <hone.h> with the flags of `pkg-config --cflags hone`. */
#ifndef HN_HONE_H
#define HN_HONE_H
#include "runtime/adapt/hn_adapt.h"
#include "runtime/base/hn_base.h"
#include "runtime/data/hn_data.h"
#include "runtime/fed/hn_fed.h"
#include "runtime/file/hn_file.h"
#include "runtime/flow/hn_flow.h"
#include "runtime/graph/hn_graph.h"
#include "runtime/model/hn_model.h"
#include "runtime/train/hn_train.h"
#endif
