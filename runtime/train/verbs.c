#define _POSIX_C_SOURCE 200809L
#include "runtime/train/verbs.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "kernels/reduce/sample.h"
#include "runtime/base/alloc.h"
#include "runtime/file/checkpoint.h"
#include "runtime/file/folder.h"
#include "runtime/train/export.h"
#include "runtime/train/generator.h"
#include "runtime/train/lora_hook.h"
#include "runtime/train/option_kinds.h"
#include "runtime/train/state.h"
#include "runtime/train/team.h"

enum { SHOWN_TOKENS = 256, SHOWN_IMAGES = 8 };

/* ---- check, plan ---- */

/* A piece as one printable word. */
static void print_piece(FILE *to, const hn_session *s, int32_t id)
{
    const char *piece = hn_tokenizer_piece(s->text.tokenizer, id);
    fputc('\'', to);
    for (const char *c = piece ? piece : "?"; *c; c++) {
        if ((unsigned char)*c < 32 || *c == 127)
            fprintf(to, "\\x%02x", (unsigned)(unsigned char)*c);
        else
            fputc(*c, to);
    }
    fputc('\'', to);
}

static void print_row(FILE *to, const hn_session *s, const hn_batch *b)
{
    const int64_t n = s->text.seq_len < SHOWN_TOKENS ? s->text.seq_len : SHOWN_TOKENS;
    fprintf(to, "first row, token by token: position, token -> target; '-' is not trained\n");
    for (int64_t i = 0; i < n; i++) {
        fprintf(to, "%6" PRId32 "  %6" PRId32 " ", b->positions[i], b->tokens[i]);
        print_piece(to, s, b->tokens[i]);
        fputs(" -> ", to);
        if (b->labels[i] == HN_LABEL_IGNORED)
            fputc('-', to);
        else
            print_piece(to, s, b->labels[i]);
        fputc('\n', to);
    }
    if (n < s->text.seq_len) fprintf(to, "... %" PRId64 " more\n", s->text.seq_len - n);
}

static hn_status show_row(FILE *to, const hn_session *s)
{
    hn_batch b = {0};
    HN_TRY(hn_batch_make(s->text.train_loader, s->text.max_seqs, &b));
    const hn_status st = hn_loader_fill(s->text.train_loader, 0, &b);
    if (st == HN_OK) print_row(to, s, &b);
    hn_batch_free(&b);
    return st;
}

/* Those that training begins with. */
static hn_status show_images(FILE *to, const hn_session *s)
{
    const hn_image_loader *l = s->images.train_loader;
    const hn_images *v = hn_image_set_view(s->images.train);
    const int64_t batch = hn_image_loader_settings(l)->batch;
    hn_image_batch b;
    HN_TRY(hn_image_batch_make(l, &b));
    const hn_status st = hn_image_loader_fill(l, 0, &b);
    if (st == HN_OK) fprintf(to, "first images: number in the data, mean and deviation, class\n");
    for (int64_t i = 0; st == HN_OK && i < batch && i < SHOWN_IMAGES; i++) {
        hn_image_stats t;
        double mean = 0, sd = 0;
        hn_image_set_stats(s->images.train, &b.image[i], 1, &t);
        for (int k = 0; k < v->c; k++) mean += t.mean[k] / v->c, sd += t.sd[k] / v->c;
        fprintf(to, "%8" PRId32 "  %5.1f %5.1f  %s\n", b.image[i], mean, sd,
                v->class_name[b.label[i]]);
    }
    hn_image_batch_free(&b);
    return st;
}

/* "a step: 2 GPUs x 3 micro-batches of 8 rows: 48 rows of 1024 tokens" */
static void print_step(FILE *to, const hn_session *s, int ranks)
{
    const hn_run_config *c = s->run;
    const bool images = hn_session_has_images(s);
    const char *what = images ? "images" : "rows";
    fputs("a step: ", to);
    if (ranks > 1) fprintf(to, "%d %s x ", ranks, strcmp(c->device, "cpu") == 0 ? "ranks" : "GPUs");
    fprintf(to, "%" PRId64 " micro-batch%s of %" PRId64 " %s: %" PRId64 " %s", c->accumulation,
            c->accumulation == 1 ? "" : "es", c->batch_size, what,
            hn_session_per_step(s) * c->batch_size, what);
    if (!images) fprintf(to, " of %" PRId64 " tokens", s->text.seq_len);
    fprintf(to, "%s\n",
            ranks > 1 ? "; each has the plan's memory, and what sums over them take" : "");
}

/* The step of a run with these options, which may have more GPUs than there are here. */
static hn_status plan_ranks(hn_session *s, int *ranks)
{
    const hn_team_request q = hn_session_team(s);
    HN_TRY(hn_team_plan(&q, ranks));
    s->per_step = s->run->accumulation * *ranks;
    s->planned_ranks = *ranks;
    return HN_OK;
}

hn_status hn_verb_check(hn_session *s, FILE *to)
{
    int ranks;
    HN_TRY(hn_check_run_options(s));
    HN_TRY(plan_ranks(s, &ranks));
    HN_TRY(hn_session_machine(s, false));
    HN_TRY(hn_session_model(s, true));
    HN_TRY(hn_session_data(s, false));
    HN_TRY(hn_session_plan(s, true, true));
    print_step(to, s, ranks);
    return hn_session_has_images(s) ? show_images(to, s) : show_row(to, s);
}

hn_status hn_verb_plan(hn_session *s, FILE *to)
{
    const hn_run_config *c = s->run;
    int ranks;
    HN_TRY(hn_check_run_options(s));
    HN_TRY(plan_ranks(s, &ranks));
    HN_TRY(hn_session_machine(s, true));
    HN_TRY(hn_session_model(s, true));
    if (c->classes > 0) HN_TRY(hn_session_classes(s, c->classes));
    HN_TRY(hn_session_engine(s, hn_executor_of(c->executor)));
    char *text = hn_engine_plan_text(s->engine);
    if (text == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the plan's text");
    fputs(text, to);
    hn_free(text);
    print_step(to, s, ranks);
    const bool all = hn_engine_recomputed(s->engine) == hn_model_layers(&s->model);
    char seq_len[64] = "";
    if (!hn_session_has_images(s))
        snprintf(seq_len, sizeof seq_len, ", --seq-len below %" PRId64, s->text.seq_len);
    else
        fprintf(to,
                "images that lie on the device as a whole (--resident) take their %" PRId64
                " bytes each besides\n",
                s->images.blank.h * s->images.blank.w * s->images.blank.c);
    const bool may_share = ranks > 1 && !c->shard_base && s->method->adapter && !s->method->pack &&
                           !hn_session_has_images(s);
    const bool may_split = ranks > 1 && c->zero == 0 && !s->method->adapter;
    fprintf(to, "to make it smaller: --batch-size below %" PRId64 " with --accumulation%s%s%s%s\n",
            c->batch_size, seq_len, all ? "" : ", --recompute on",
            may_share ? ", --shard-base" : "", may_split ? ", --zero 1" : "");
    return HN_OK;
}

/* ---- generate ---- */

typedef struct {
    hn_session *s;
    hn_generator *g;
    int64_t max_new_tokens;
    hn_tokens prompt;
    hn_text text;
    hn_detok detok;
    void *scratch;
    FILE *to;
} writer;

static hn_status write_out(writer *w)
{
    const bool written = fwrite(w->text.s, 1, w->text.n, w->to) == w->text.n;
    w->text.n = 0;
    return written && fflush(w->to) == 0 ? HN_OK : HN_FAIL(HN_ERR_WRITE, "writing the text failed");
}

static hn_status emit_token(writer *w, int32_t id)
{
    HN_TRY(hn_tokenizer_decode_next(w->s->text.tokenizer, &w->detok, id, &w->text));
    return write_out(w);
}

static bool is_end(const hn_session *s, int32_t id)
{
    const hn_decoder *c = &s->model.decoder;
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos[i] == id) return true;
    return c->n_eos == 0 && id == hn_tokenizer_eos(s->text.tokenizer);
}

static hn_status encode_prompt(writer *w)
{
    hn_session *s = w->s;
    const char *prompt = s->run->prompt;
    HN_TRY(hn_tokenizer_encode(s->text.tokenizer, prompt, strlen(prompt),
                               HN_TOK_ADD_SPECIAL | HN_TOK_PARSE_SPECIAL, &w->prompt));
    if (w->prompt.n > 0) return HN_OK;
    int32_t start = hn_tokenizer_bos(s->text.tokenizer); /* an empty prompt begins a document */
    if (start < 0) start = hn_tokenizer_eos(s->text.tokenizer);
    if (start < 0)
        return HN_FAIL(HN_ERR_ARG, "--prompt is empty and %s has neither BOS nor EOS to begin with",
                       hn_tokenizer_source(s->text.tokenizer));
    w->prompt.id = hn_malloc(sizeof *w->prompt.id);
    if (w->prompt.id == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the prompt");
    w->prompt.id[0] = start;
    w->prompt.n = w->prompt.cap = 1;
    return HN_OK;
}

/* The default number of tokens gives way to the model's positions; one that is asked for does not.
 */
static void settle_length(writer *w)
{
    const hn_session *s = w->s;
    const int64_t room = s->model.decoder.max_positions - w->prompt.n;
    w->max_new_tokens = s->run->max_new_tokens;
    if (room < 1 || room >= w->max_new_tokens || hn_options_given(s->given, "max-new-tokens"))
        return;
    w->max_new_tokens = room;
    hn_info(&s->log, "writing at most %" PRId64 " tokens: the model has %" PRId64 " positions",
            room, s->model.decoder.max_positions);
}

static hn_status make_generator(writer *w)
{
    hn_session *s = w->s;
    const hn_run_config *c = s->run;
    const hn_generator_options o = {.device = s->device,
                                    .executor = hn_executor_of(s->run->executor),
                                    .decoder = &s->model.decoder,
                                    .adapt = &s->adapt,
                                    .dtype = s->model.dtype,
                                    .max_prompt = w->prompt.n,
                                    .max_tokens = w->prompt.n + w->max_new_tokens};
    HN_TRY(hn_generator_new(&o, &w->g));
    const hn_params *p = hn_generator_params(w->g);
    HN_TRY(hn_model_check(&s->model, p, &s->log));
    HN_TRY(hn_generator_allocate(w->g));
    HN_TRY(hn_model_load(&s->model, p, (uint64_t)c->seed));
    return hn_session_adapt(s, p);
}

static hn_status write_text(writer *w)
{
    hn_session *s = w->s;
    const hn_run_config *c = s->run;
    const float *logits = NULL;
    int32_t id = 0, position = 0;
    hn_sample_args a = {.positions = &position,
                        .tokens = &id,
                        .rows = 1,
                        .vocab = s->model.decoder.vocab,
                        .ld = s->model.decoder.vocab,
                        .seed = (uint64_t)c->seed,
                        .top_k = c->top_k,
                        .temperature = (float)c->temperature,
                        .top_p = (float)c->top_p};
    const size_t bytes = hn_sample_scratch(&a);
    w->scratch = bytes ? hn_malloc(bytes) : NULL;
    if (bytes && w->scratch == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes to sample", bytes);
    for (int64_t i = 0; i < w->prompt.n; i++) HN_TRY(emit_token(w, w->prompt.id[i]));
    HN_TRY(hn_generator_prompt(w->g, w->prompt.id, w->prompt.n, &logits));
    for (int64_t i = 0; i < w->max_new_tokens; i++) {
        a.logits = logits;
        position = (int32_t)(w->prompt.n + i);
        HN_TRY(hn_sample(&a, w->scratch));
        if (is_end(s, id) && !c->ignore_eos) break;
        if (id >= hn_tokenizer_vocab_size(s->text.tokenizer))
            continue; /* padding row of the head */
        HN_TRY(emit_token(w, id));
        if (i + 1 < w->max_new_tokens) HN_TRY(hn_generator_next(w->g, id, &logits));
    }
    HN_TRY(hn_tokenizer_decode_end(s->text.tokenizer, &w->detok, &w->text));
    HN_TRY(write_out(w));
    if (isatty(fileno(w->to))) fputc('\n', w->to);
    return HN_OK;
}

hn_status hn_verb_generate(hn_session *s, FILE *to)
{
    writer w = {.s = s, .to = to, .detok = {.skip_special = true}};
    hn_status st = HN_OK;
    HN_TRY(hn_session_machine(s, false));
    HN_TRY(hn_session_model(s, false));
    if (hn_session_has_images(s))
        return HN_FAIL(HN_ERR_ARG,
                       "model %s is an image classifier: it has no text to write; "
                       "'predict' names the classes of images",
                       s->run->model);
    HN_TRY(hn_session_tokenizer(s));
    HN_TRY_GOTO(st, encode_prompt(&w), done);
    settle_length(&w);
    HN_TRY_GOTO(st, make_generator(&w), done);
    st = write_text(&w);

done:
    hn_generator_free(w.g);
    hn_tokens_free(&w.prompt);
    hn_text_free(&w.text);
    hn_free(w.scratch);
    return st;
}

/* ---- export ---- */

/* The checkpoint itself, or the newest complete one of a run's folder. */
static hn_status find_checkpoint(const hn_session *s, char **out)
{
    const char *given = s->run->checkpoint;
    char *marker = hn_asprintf("%s/COMPLETE", given);
    if (marker == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the path %s", given);
    const bool complete = hn_is_file(marker);
    hn_free(marker);
    if (complete) {
        HN_TRY(hn_ckpt_verify(given));
        *out = hn_strdup(given);
        return *out ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for %s", given);
    }
    if (!hn_is_folder(given)) return HN_FAIL(HN_ERR_IO, "--checkpoint %s: no such folder", given);
    HN_TRY(hn_ckpt_newest(given, &s->log, out, NULL));
    if (*out == NULL)
        return HN_FAIL(HN_ERR_FORMAT, "--checkpoint %s: no complete checkpoint there", given);
    return HN_OK;
}

/* The options come from the checkpoint's run.yaml, so shapes are those of its run. */
static hn_status open_for_checkpoint(hn_session *s, const char *dir)
{
    const char *digest;
    HN_TRY(hn_session_model(s, true));
    if (hn_session_has_images(s)) {
        hn_vision_config v = s->model.vision;
        HN_TRY(hn_state_classes(dir, &v, &s->images.classes));
        HN_TRY(hn_session_classes(s, v.classes));
        memcpy(s->model.vision.mean, v.mean, sizeof v.mean);
        memcpy(s->model.vision.std, v.std, sizeof v.std);
    }
    HN_TRY(hn_session_plan(s, false, true));
    HN_TRY(hn_session_load_base(s)); /* the checkpoint has all that is trained */
    HN_TRY(hn_model_digest(&s->model, (uint64_t)s->run->seed, &digest));
    return hn_state_load_delta(dir, hn_engine_params(s->engine), digest);
}

hn_status hn_verb_export(hn_session *s, FILE *to)
{
    const char *dir = s->run->to;
    const hn_export_kind *kind;
    char *checkpoint = NULL;
    HN_TRY(hn_export_find(s->method, s->run->kind, &kind));
    if (hn_is_folder(dir) || hn_is_file(dir))
        return HN_FAIL(HN_ERR_IO, "--to %s exists already", dir);
    HN_TRY(find_checkpoint(s, &checkpoint));
    hn_status st = hn_session_machine(s, false);
    if (st == HN_OK) st = open_for_checkpoint(s, checkpoint);
    if (st == HN_OK) st = kind->write(s, checkpoint, dir);
    if (st == HN_OK) fprintf(to, "%s: %s of %s\n", dir, kind->what, checkpoint);
    hn_free(checkpoint);
    return st;
}
