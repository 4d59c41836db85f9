/* model.h - a model from disk or by name: configuration, weights, digest.
 *
 * --model DIR loads a Hugging Face folder (timm's, for vision); --model config.json, or the name of
 * an architecture of vision_config.h, starts from random weights that the seed decides, or from a
 * file of weights that is named besides. */
#ifndef HN_MODEL_H
#define HN_MODEL_H
#include <stdbool.h>

#include "runtime/file/model_dir.h"
#include "runtime/model/decoder.h"
#include "runtime/model/vision.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { HN_MODEL_DECODER, HN_MODEL_CLASSIFIER } hn_model_kind;

typedef struct {
    const char *path;    /* folder, config.json, or name of an architecture */
    const char *weights; /* safetensors file for a config.json or a name; NULL: random weights */
    const char *dtype;   /* "auto", "f32" or "bf16": auto computes bf16 files in bf16, f32 and f16
                          * files in f32 and refuses other types by name */
} hn_model_options;

typedef struct {
    char *path; /* as given */
    hn_model_kind kind;
    hn_decoder decoder;      /* that of the kind counts */
    hn_vision_config vision; /* of a classifier */
    bool fresh_head;     /* its head is another than that of the files: it starts from the seed */
    bool named;          /* by the name of an architecture: there is no config.json */
    hn_model_dir *dir;   /* NULL: random weights */
    bool whole;          /* dir is a folder with everything in it, not a file of weights */
    json_t *config_json; /* borrowed from dir, or owned */
    hn_dtype dtype;      /* to compute in */
    bool checked_digest;
    char digest[HN_SHA256_HEX]; /* of the tensor tree; of config and seed for random weights */
} hn_model;

/* Errors   those of the folder and the configuration; HN_ERR_ARG: weights beside a folder */
HN_NODISCARD hn_status hn_model_open_as(const hn_model_options *o, const hn_log *log,
                                        hn_model *out);
/* The same without a file of weights. */
HN_NODISCARD hn_status hn_model_open(const char *path, const char *dtype, const hn_log *log,
                                     hn_model *out);
void hn_model_close(hn_model *m); /* accepts an empty one */

/* Other sizes for a classifier than its configuration says, before anything is declared. Another
 * number of classes than the files have, or new_head, makes the head a fresh one.
 * Errors   HN_ERR_ARG: a decoder; HN_ERR_SHAPE: sizes that do not fit together */
HN_NODISCARD hn_status hn_model_override(hn_model *m, const hn_vision_override *o, bool new_head);

/* Every parameter, in file order. */
HN_NODISCARD hn_status hn_model_declare(const hn_model *m, hn_params *p);
enum { HN_MODEL_HEAD = 64 }; /* bytes for the name of a classifier's head */
/* Name of the head's weight; NULL: a classifier without one. */
const char *hn_model_head(const hn_model *m, char *name, size_t size);
/* What the configuration calls a class; NULL: it does not say. */
const char *hn_model_class(const hn_model *m, int64_t i);
/* config.json of a classifier as it is now: with the sizes and classes of the session, whatever the
 * file says. names [n]: what the classes are called; n 0: as in the file where its head is the one
 * in use, else by number. *out is new.
 * Errors   HN_ERR_ARG: a decoder; HN_ERR_MEMORY (also a name that is not UTF-8) */
HN_NODISCARD hn_status hn_model_config(const hn_model *m, int64_t n, char *const *names,
                                       json_t **out);
/* The same for preprocessor_config.json, where Hugging Face's names want one: *out NULL without.
 * old: what is there, or NULL */
HN_NODISCARD hn_status hn_model_preprocessor(const hn_model *m, const json_t *old, json_t **out);
/* Layers that can run again in backward. */
int64_t hn_model_layers(const hn_model *m);

/* Every parameter of the model is in the files with its shape and a float type; an untied copy of
 * a tied head equals the embedding. What the files hold besides is named in a warning. */
HN_NODISCARD hn_status hn_model_check(const hn_model *m, const hn_params *p, const hn_log *log);

/* Fills the base parameters from the files, or from the seed, and adapters from the seed. */
HN_NODISCARD hn_status hn_model_load(const hn_model *m, const hn_params *p, uint64_t seed);

/* Computed once: reads every byte of the weights. A fresh head is part of it. */
HN_NODISCARD hn_status hn_model_digest(hn_model *m, uint64_t seed, const char **hex);

#ifdef __cplusplus
}
#endif
#endif
