/* hn_data.h - the face of runtime/data: all that other folders and programs include of it. */
#ifndef HN_FACE_DATA_H
#define HN_FACE_DATA_H
#include "runtime/data/class_split.h"
#include "runtime/data/client_schedule.h"
#include "runtime/data/dataset.h"
#include "runtime/data/episodes.h"
#include "runtime/data/image_loader.h"
#include "runtime/data/images.h"
#include "runtime/data/loader.h"
#include "runtime/data/nifti.h"
#include "runtime/data/omniglot_runs.h"
#include "runtime/data/packing.h"
#include "runtime/data/partition.h"
#include "runtime/data/seg_metrics.h"
#include "runtime/data/source.h"
#include "runtime/data/task_stream.h"
#include "runtime/data/template.h"
#include "runtime/data/tokenizer.h"
#include "runtime/data/volume_patch.h"
#include "runtime/data/volume_window.h"
#include "runtime/data/volumes.h"
#endif
