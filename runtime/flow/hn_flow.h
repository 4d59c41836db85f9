/* hn_flow.h - the face of runtime/flow: all that other folders and programs include of it. */
#ifndef HN_FACE_FLOW_H
#define HN_FACE_FLOW_H
#include "runtime/flow/curve.h"
#include "runtime/flow/integrate.h"
#include "runtime/flow/trajectory.h"
#endif
