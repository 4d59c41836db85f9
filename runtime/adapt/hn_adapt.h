/* hn_adapt.h - the face of runtime/adapt: all that other folders and programs include of it. */
#ifndef HN_FACE_ADAPT_H
#define HN_FACE_ADAPT_H
#include "runtime/adapt/params.h"
#include "runtime/adapt/rank_rule.h"
#include "runtime/adapt/sparse.h"
#include "runtime/adapt/spectrum.h"
#endif
