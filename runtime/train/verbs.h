/* verbs.h - what each verb does, on a session whose method, config, run, given and log are set. */
#ifndef HN_VERBS_H
#define HN_VERBS_H
#include <stdio.h>

#include "runtime/train/session.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Everything that train would do up to the first allocation, and one batch row token by token with
 * its mask, or labels and pixels of the first images. */
HN_NODISCARD hn_status hn_verb_check(hn_session *s, FILE *to);
/* The memory plan, and what to change to make it smaller. Needs no data. */
HN_NODISCARD hn_status hn_verb_plan(hn_session *s, FILE *to);
/* Searches for the fastest algorithm of every matrix product of a training run, on a GPU, prints
 * them and writes them to the file of --plans. Needs no data (tune.c). */
HN_NODISCARD hn_status hn_verb_tune(hn_session *s, FILE *to);
/* Held-out loss, with perplexity or accuracy (eval.c). The session's team has been started
 * (team.h): of several ranks each has its batches (hn_session_evaluate), and rank 0 writes. */
HN_NODISCARD hn_status hn_verb_eval(hn_session *s, FILE *to);
/* Writes the prompt and its continuation, as it is made. */
HN_NODISCARD hn_status hn_verb_generate(hn_session *s, FILE *to);
/* The most probable classes of image files (predict.c). */
HN_NODISCARD hn_status hn_verb_predict(hn_session *s, FILE *to);
/* Writes a checkpoint as a PEFT adapter or a merged model. */
HN_NODISCARD hn_status hn_verb_export(hn_session *s, FILE *to);
/* Says what a folder or file is: model, adapter, checkpoint, safetensors. */
HN_NODISCARD hn_status hn_verb_info(hn_session *s, FILE *to);

#ifdef __cplusplus
}
#endif
#endif
