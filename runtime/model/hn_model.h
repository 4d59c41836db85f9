/* hn_model.h - the face of runtime/model: all that other folders and programs include of it. */
#ifndef HN_FACE_MODEL_H
#define HN_FACE_MODEL_H
#include "runtime/model/decoder.h"
#include "runtime/model/drift.h"
#include "runtime/model/drift_config.h"
#include "runtime/model/gpt2.h"
#include "runtime/model/gpt2_config.h"
#include "runtime/model/llama.h"
#include "runtime/model/llama_config.h"
#include "runtime/model/model.h"
#include "runtime/model/vision.h"
#include "runtime/model/vision_config.h"
#endif
