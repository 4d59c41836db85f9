/* hn_fed.h - the face of runtime/fed: all that other folders and programs include of it. */
#ifndef HN_FACE_FED_H
#define HN_FACE_FED_H
#include "runtime/fed/compress.h"
#include "runtime/fed/layout.h"
#include "runtime/fed/message.h"
#include "runtime/fed/server.h"
#include "runtime/fed/support.h"
#endif
