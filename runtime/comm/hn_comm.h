/* hn_comm.h - the face of runtime/comm: all that other folders and programs include of it. */
#ifndef HN_FACE_COMM_H
#define HN_FACE_COMM_H
#include "runtime/comm/comm.h"
#include "runtime/comm/hostlist.h"
#include "runtime/comm/hub.h"
#include "runtime/comm/launch.h"
#include "runtime/comm/ranks.h"
#include "runtime/comm/shared_memory.h"
#endif
