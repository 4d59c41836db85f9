/* hn_base.h - the face of runtime/base: all that other folders and programs include of it. */
#ifndef HN_FACE_BASE_H
#define HN_FACE_BASE_H
#include "runtime/base/alloc.h"
#include "runtime/base/arena.h"
#include "runtime/base/bf16.h"
#include "runtime/base/clock.h"
#include "runtime/base/dtype.h"
#include "runtime/base/json.h"
#include "runtime/base/label.h"
#include "runtime/base/log.h"
#include "runtime/base/mapfile.h"
#include "runtime/base/nearest.h"
#include "runtime/base/options.h"
#include "runtime/base/progress.h"
#include "runtime/base/rng.h"
#include "runtime/base/save.h"
#include "runtime/base/status.h"
#include "runtime/base/step_block.h"
#include "runtime/base/stream.h"
#endif
