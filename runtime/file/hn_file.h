/* hn_file.h - the face of runtime/file: all that other folders and programs include of it. */
#ifndef HN_FACE_FILE_H
#define HN_FACE_FILE_H
#include "runtime/file/checkpoint.h"
#include "runtime/file/folder.h"
#include "runtime/file/gap_code.h"
#include "runtime/file/metrics.h"
#include "runtime/file/model_dir.h"
#include "runtime/file/peft.h"
#include "runtime/file/safetensors.h"
#include "runtime/file/shira.h"
#include "runtime/file/sparse_pack.h"
#include "runtime/file/tfevents.h"
#endif
