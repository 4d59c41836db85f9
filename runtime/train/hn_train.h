/* hn_train.h - the face of runtime/train: all that other folders and programs include of it. */
#ifndef HN_FACE_TRAIN_H
#define HN_FACE_TRAIN_H
#include "runtime/train/cl_metrics.h"
#include "runtime/train/cli.h"
#include "runtime/train/decoder_job.h"
#include "runtime/train/engine.h"
#include "runtime/train/export.h"
#include "runtime/train/generator.h"
#include "runtime/train/job.h"
#include "runtime/train/lora_hook.h"
#include "runtime/train/method.h"
#include "runtime/train/pearl.h"
#include "runtime/train/rank_table.h"
#include "runtime/train/run_options.h"
#include "runtime/train/schedule.h"
#include "runtime/train/session.h"
#include "runtime/train/sparse_presets.h"
#include "runtime/train/sparse_score.h"
#include "runtime/train/sparse_select.h"
#include "runtime/train/state.h"
#include "runtime/train/trainer.h"
#endif
