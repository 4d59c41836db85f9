/* tokenizer.h - text to token ids and back.
 *
 * Reads       tokenizer.json (byte-level BPE, SentencePiece-style BPE with byte fallback, Unigram,
 *             WordLevel); SentencePiece protobufs (*.model: BPE, unigram, char);
 *             vocab.json + merges.txt (GPT-2, Qwen2); the vocabulary of a GGUF v2/v3 file (models
 *             "llama" and "gpt2"); llama2.c's tok*.bin.
 * Refuses     by name what it does not implement (WordPiece, Precompiled normalizers, ...); a
 *             component is never skipped.
 * Same ids    as the library that owns the format: `tokenizers` for tokenizer.json,
 *             `sentencepiece` for *.model, GPT-2's own BPE for vocab.json. Control pieces of
 *             SentencePiece files and of GGUF files count as special tokens.
 * Text        UTF-8, at most 1 GiB a call. A byte that is not part of valid UTF-8 counts as U+FFFD,
 *             one for each byte, in every format (SentencePiece's rule).
 * Unknown     characters without a token and without byte fallback: the unknown token (a run of
 *             them is one token where the format's library does that); a tokenizer.json whose BPE
 *             has neither drops them, as its library does.
 * Threads     an hn_tokenizer never changes after loading; any number of threads may use it.
 * Cost        O(n log n) in the bytes of the text; no word length is quadratic.
 * Repeats     always the same ids.
 */
#ifndef HN_TOKENIZER_H
#define HN_TOKENIZER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_tokenizer hn_tokenizer;

typedef struct {
    int32_t *id;    /* [n] */
    int64_t n, cap; /* in use, allocated */
} hn_tokens;
void hn_tokens_free(hn_tokens *t); /* accepts an empty one; leaves it empty */

typedef struct {
    char *s;       /* n bytes and a final zero; NULL while nothing was ever appended */
    size_t n, cap; /* in use without the zero, allocated */
} hn_text;
void hn_text_free(hn_text *t); /* accepts an empty one; leaves it empty */

/* path     one of the files above, or a folder. In a folder the first of these is taken:
 *          tokenizer.json; tokenizer.model; vocab.json with merges.txt; the only file that is
 *          *.model, *.gguf or tok*.bin. Several or none of the last group is an error.
 * Beside   the file, when they are there: tokenizer_config.json (bos_token, eos_token, unk_token,
 *          add_bos_token, add_eos_token, added_tokens_decoder), special_tokens_map.json,
 *          added_tokens.json, and for ids that are still unknown generation_config.json and
 *          config.json. add_bos_token and add_eos_token, when given, overrule the post-processor;
 *          "bos_token": null means none. Without add_bos_token a SentencePiece vocabulary adds its
 *          BOS, as Llama's does; EOS is added only where a file says so.
 * out      changed only on success; hn_tokenizer_free frees it
 * Errors   HN_ERR_IO, HN_ERR_FORMAT (damaged, inconsistent), HN_ERR_UNSUPPORTED (a component by
 *          name), HN_ERR_MEMORY; the text names file, place and values */
HN_NODISCARD hn_status hn_tokenizer_load(const char *path, hn_tokenizer **out);
void hn_tokenizer_free(hn_tokenizer *t); /* accepts NULL */

enum {
    HN_TOK_ADD_SPECIAL = 1,  /* BOS, EOS as the tokenizer's post-processor and settings say */
    HN_TOK_PARSE_SPECIAL = 2 /* special tokens written in the text become their ids; without it
                              * they are plain text (added tokens that are not special are
                              * always found) */
};

/* Appends the ids of the text; out is as before after an error.
 * text     [n_bytes], need not end in zero, may hold zeros; NULL when n_bytes is 0
 * Errors   HN_ERR_ARG (text too long), HN_ERR_FORMAT (a regex of the file needs too many steps
 *          on this text), HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_tokenizer_encode(const hn_tokenizer *t, const char *text, size_t n_bytes,
                                           unsigned flags, hn_tokens *out);

/* Appends the text of the ids, always valid UTF-8; out is as before after an error. The ids are
 * one sequence: SentencePiece's leading space goes, bytes spread over tokens join.
 * skip_special  leaves special tokens out, otherwise they appear as their piece. The unknown token
 *               of a SentencePiece vocabulary is not special: it appears as " \u2047 " (or what the
 *               file says), as in that library. An added token of a tokenizer.json that is matched
 *               in normalised text appears normalised (tokenizers 0.23; older ones: as written)
 * Errors   HN_ERR_ARG (an id outside the vocabulary), HN_ERR_FORMAT, HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_tokenizer_decode(const hn_tokenizer *t, const int32_t *id, int64_t n,
                                           bool skip_special, hn_text *out);

/* Decoding one token at a time. Start from zeros, set skip_special if wanted; to continue a prompt,
 * give its ids first and drop what comes out. Each call appends
 * the bytes that became certain; an incomplete character is held back until the next call or
 * hn_tokenizer_decode_end, which resets the state as well. The pieces together are the text of
 * hn_tokenizer_decode, but for one case: where a tokenizer.json's byte tokens do not form valid
 * UTF-8, the characters before the bad byte have been given out already (decode writes a U+FFFD
 * for every byte of such a run).
 * Errors   as hn_tokenizer_decode; HN_ERR_UNSUPPORTED for a decoder that needs the whole text */
typedef struct {
    bool skip_special;
    bool started_;          /* private from here on */
    int n_held_, n_cut_;    /* bytes held back; leading characters stripped so far */
    int64_t n_tokens_;      /* tokens that have passed the per-token steps */
    unsigned char held_[8]; /* the beginning of a character */
} hn_detok;
HN_NODISCARD hn_status hn_tokenizer_decode_next(const hn_tokenizer *t, hn_detok *state, int32_t id,
                                                hn_text *out);
HN_NODISCARD hn_status hn_tokenizer_decode_end(const hn_tokenizer *t, hn_detok *state,
                                               hn_text *out);

/* Largest id + 1. The embedding of a model may have more rows. */
int64_t hn_tokenizer_vocab_size(const hn_tokenizer *t);
int32_t hn_tokenizer_bos(const hn_tokenizer *t); /* -1: none */
int32_t hn_tokenizer_eos(const hn_tokenizer *t);
int32_t hn_tokenizer_unk(const hn_tokenizer *t);
/* The piece as the file spells it (byte-level alphabet, U+2581, <0x0A>); NULL when id names none.
 * It may hold a zero byte, behind which C sees nothing. */
const char *hn_tokenizer_piece(const hn_tokenizer *t, int32_t id);
int32_t hn_tokenizer_find(const hn_tokenizer *t, const char *piece); /* -1: no such piece */
bool hn_tokenizer_is_special(const hn_tokenizer *t, int32_t id);
/* SHA-256, 64 hex digits, of everything that decides about ids: the defining files, the added
 * tokens, BOS, EOS and when they are added. Equal digests: equal ids. */
const char *hn_tokenizer_digest(const hn_tokenizer *t);
const char *hn_tokenizer_source(const hn_tokenizer *t); /* "dir/tokenizer.json (BPE)" */

#ifdef __cplusplus
}
#endif
#endif
