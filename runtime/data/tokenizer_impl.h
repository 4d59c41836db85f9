/* tokenizer_impl.h - the parts of a tokenizer; private to runtime/data/tokenizer*.c, its tests and
 * its fuzz target.
 *
 * Every file format is lowered to one pipeline, the one of tokenizer.json:
 *
 *   text -> split at added tokens -> normalise -> split at normalised added tokens
 *        -> pre-tokenise -> model (BPE, Unigram, WordLevel) -> prefix and suffix ids
 *
 * SentencePiece is a normalizer step, a model that finds merges by the text of a piece instead of
 * by a pair of ids, and a decoder. What encoding needs to remember lies in an hn_tok_work, one for
 * each call, so that a tokenizer stays constant.
 */
#ifndef HN_TOKENIZER_IMPL_H
#define HN_TOKENIZER_IMPL_H
#include <jansson.h>

#include "runtime/base/save.h"
#include "runtime/data/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HN_TOK_MAX_TEXT = 1 << 30, /* bytes of a text before and after each step */
    HN_TOK_MAX_IDS = 1 << 24,
};

/* ---- texts (tokenizer_text.c) ---- */

HN_NODISCARD hn_status hn_text_append(hn_text *t, const void *bytes, size_t n);
HN_NODISCARD hn_status hn_text_append_char(hn_text *t, int32_t codepoint);
/* Bytes of the character at s[0..n), n > 0, and its code point; 0 when it is not valid UTF-8. */
size_t hn_utf8_next(const char *s, size_t n, int32_t *codepoint);
/* The same going backwards from s[n-1] in valid UTF-8. */
size_t hn_utf8_last(const char *s, size_t n, int32_t *codepoint);
/* Whether s is the beginning of a character, but not all of it (also when n is 0). */
bool hn_utf8_is_prefix(const unsigned char *s, size_t n);
bool hn_utf8_valid(const char *s, size_t n);
/* Appends s with U+FFFD for every byte that is not part of a valid character. */
HN_NODISCARD hn_status hn_utf8_repair(const char *s, size_t n, hn_text *out);
size_t hn_utf8_put(int32_t codepoint, char out[4]);
bool hn_is_space(int32_t c);       /* property White_Space */
bool hn_is_word(int32_t c);        /* \w of Rust's regex: Alphabetic, M, Nd, Pc, Join_Control */
bool hn_is_numeric(int32_t c);     /* Nd, Nl, No */
bool hn_is_punctuation(int32_t c); /* ASCII punctuation and symbols, P* */
bool hn_is_mark(int32_t c);        /* M* */

/* ---- regular expressions (tokenizer_regex.c) ---- */

typedef struct hn_regex hn_regex;
typedef struct hn_regex_scratch hn_regex_scratch; /* one for each thread */
/* Oniguruma's meaning of the pattern (what tokenizer.json files are written for), run by PCRE2.
 * A construct whose meaning differs between the two is HN_ERR_UNSUPPORTED. */
HN_NODISCARD hn_status hn_regex_make(const char *pattern, size_t n, const char *where,
                                     hn_regex **out);
void hn_regex_free(hn_regex *re);
HN_NODISCARD hn_status hn_regex_scratch_make(hn_regex_scratch **out);
void hn_regex_scratch_free(hn_regex_scratch *s);
/* The first match at or behind `from` in valid UTF-8. */
HN_NODISCARD hn_status hn_regex_find(const hn_regex *re, hn_regex_scratch *scratch, const char *s,
                                     size_t n, size_t from, bool *found, size_t *begin,
                                     size_t *end);

typedef struct {
    hn_regex *re; /* NULL: the literal */
    char *literal;
    size_t n;
} hn_tok_pattern;

/* ---- vocabulary (tokenizer_vocab.c) ---- */

/* Types as SentencePiece and GGUF number them. */
enum {
    HN_PIECE_NORMAL = 1,
    HN_PIECE_UNKNOWN,
    HN_PIECE_CONTROL,
    HN_PIECE_USER,
    HN_PIECE_UNUSED,
    HN_PIECE_BYTE
};

typedef struct {
    int64_t at;       /* in hn_tok_vocab.bytes; -1: no such id */
    uint32_t n;       /* bytes */
    uint32_t rank;    /* of its score, 0 the best; equal scores share one */
    int64_t shown_at; /* what decoding writes: the piece, or an added token's normalised form */
    uint32_t shown_n;
    double score;
    int32_t added; /* index of the added token that has this id, -1: none */
    uint8_t type;
    bool special;
} hn_tok_piece;

typedef struct {   /* open addressing by text */
    int32_t *slot; /* id or -1 */
    int64_t n_slots, n;
} hn_tok_table;

typedef struct {
    hn_text bytes; /* all pieces, each with a final zero */
    hn_tok_piece *piece;
    int64_t n_ids, cap_ids; /* largest id + 1 */
    int64_t n_pieces;
    int64_t id_limit;     /* ids at or above it are refused: 0 means HN_TOK_MAX_IDS */
    hn_tok_table model;   /* pieces that the model can make of text */
    hn_tok_table others;  /* control pieces, added tokens: only names find them */
    uint32_t max_n;       /* bytes of the longest piece of the model */
    int32_t byte_id[256]; /* of <0x00>..<0xFF>, -1: none; set by hn_vocab_bytes */
    bool all_bytes;       /* all 256 exist */
    bool has_unused;
    double min_score, max_score; /* of normal pieces */
} hn_tok_vocab;

/* Refuses ids that a file of that size cannot mean: what is allocated stays in proportion. */
void hn_vocab_limit(hn_tok_vocab *v, size_t n_file_bytes);
/* Defines an id. of_model: hn_vocab_find finds it. A second definition of an id or a second piece
 * of the model with the same text is HN_ERR_FORMAT. */
HN_NODISCARD hn_status hn_vocab_set(hn_tok_vocab *v, int64_t id, const char *s, size_t n, int type,
                                    bool of_model, const char *where);
int32_t hn_vocab_find(const hn_tok_vocab *v, const char *s, size_t n);     /* -1: none */
int32_t hn_vocab_find_any(const hn_tok_vocab *v, const char *s, size_t n); /* also the others */
const char *hn_vocab_text(const hn_tok_vocab *v, int32_t id, size_t *n);   /* NULL: no such id */
void hn_vocab_bytes(hn_tok_vocab *v, bool typed); /* finds byte_id; typed: pieces of type BYTE */
HN_NODISCARD hn_status hn_vocab_rank(hn_tok_vocab *v, const char *where); /* from the scores */
void hn_vocab_free(hn_tok_vocab *v);

/* Pairs of ids that merge, from a pair to rank and new id. */
typedef struct {
    uint64_t *key; /* left << 32 | right; UINT64_MAX: empty */
    uint32_t *rank;
    int32_t *id;
    int64_t n_slots, n;
} hn_tok_merges;
HN_NODISCARD hn_status hn_merges_reserve(hn_tok_merges *m, int64_t n);
/* Adds one of the reserved pairs; a repeated pair takes the later rank, as the library does. */
void hn_merges_add(hn_tok_merges *m, int32_t left, int32_t right, uint32_t rank, int32_t id);
bool hn_merges_find(const hn_tok_merges *m, int32_t left, int32_t right, uint32_t *rank,
                    int32_t *id);
void hn_merges_free(hn_tok_merges *m);

/* ---- added tokens (tokenizer_added.c) ---- */

typedef struct {
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
} hn_tok_added;

/* Finds the longest of a set of texts at a place. */
typedef struct {
    char *text;
    size_t n;
    int32_t index;
} hn_tok_entry;
typedef struct {
    hn_tok_entry *entry; /* sorted by first byte, then longest first */
    int64_t n, cap;
    int32_t first[257]; /* entries of first byte c: [first[c], first[c+1]) */
} hn_tok_matcher;
HN_NODISCARD hn_status hn_matcher_add(hn_tok_matcher *m, const char *s, size_t n, int32_t index);
void hn_matcher_finish(hn_tok_matcher *m);
int32_t hn_matcher_at(const hn_tok_matcher *m, const char *s, size_t n, size_t *n_matched);
void hn_matcher_free(hn_tok_matcher *m);

/* ---- steps ---- */

typedef enum {
    HN_NORM_NFC,
    HN_NORM_NFD,
    HN_NORM_NFKC,
    HN_NORM_NFKD,
    HN_NORM_LOWERCASE,
    HN_NORM_STRIP,
    HN_NORM_STRIP_ACCENTS,
    HN_NORM_REPLACE,
    HN_NORM_PREPEND,
    HN_NORM_SENTENCEPIECE,
} hn_tok_norm_kind;

typedef struct {
    hn_tok_norm_kind kind;
    hn_tok_pattern find; /* REPLACE */
    char *text;          /* REPLACE, PREPEND */
    size_t n;
    bool left, right; /* STRIP */
} hn_tok_norm;

typedef enum {
    HN_KEEP_REMOVED,
    HN_KEEP_ISOLATED,
    HN_KEEP_WITH_PREVIOUS,
    HN_KEEP_WITH_NEXT,
    HN_KEEP_CONTIGUOUS,
} hn_tok_keep;

typedef enum {
    HN_SPLIT_PATTERN,   /* find, keep, invert */
    HN_SPLIT_CHARS,     /* is, keep */
    HN_SPLIT_WORDS,     /* runs of word characters, runs of other non-space */
    HN_SPLIT_METASPACE, /* text, scheme, cut */
    HN_SPLIT_SPACE,     /* prefix every piece with a space that does not begin with one */
    HN_SPLIT_BYTES,     /* write each byte as its printable character */
} hn_tok_split_kind;

typedef enum { HN_PREPEND_ALWAYS, HN_PREPEND_FIRST, HN_PREPEND_NEVER } hn_tok_scheme;

typedef struct {
    hn_tok_split_kind kind;
    hn_tok_pattern find;
    bool (*is)(int32_t codepoint);
    hn_tok_keep keep;
    bool invert;
    char *text; /* the replacement */
    size_t n;
    hn_tok_scheme scheme;
    bool cut;
} hn_tok_split;

typedef enum {
    HN_DEC_REPLACE,
    HN_DEC_STRIP,
    HN_DEC_METASPACE,
    HN_DEC_BYTE_FALLBACK,
    HN_DEC_FUSE,
    HN_DEC_BYTE_LEVEL,
    HN_DEC_SENTENCEPIECE,
} hn_tok_dec_kind;

typedef struct {
    hn_tok_dec_kind kind;
    hn_tok_pattern find; /* REPLACE */
    char *text;          /* REPLACE: content; STRIP, METASPACE: one character */
    size_t n;
    int64_t start, stop; /* STRIP: at most so many characters */
    bool drop_first;     /* METASPACE: not in the first token */
} hn_tok_dec;

typedef enum {
    HN_MODEL_BPE,        /* pairs of ids, ranks from the merges */
    HN_MODEL_PIECE_BPE,  /* SentencePiece: any two neighbours that form a piece, best score */
    HN_MODEL_CHAR,       /* SentencePiece: one token a character */
    HN_MODEL_UNIGRAM,    /* tokenizer.json */
    HN_MODEL_SP_UNIGRAM, /* SentencePiece: single precision, user-defined pieces, unused ones */
    HN_MODEL_WORD_LEVEL,
} hn_tok_model;

typedef struct {
    bool dummy_prefix, remove_extra_spaces;
    char space[4]; /* what stands for a space: U+2581 or ' ' */
    size_t n_space;
    char *unk_surface;       /* what decoding writes for the unknown token */
    hn_tok_matcher user;     /* user-defined pieces; index is the id */
    unsigned char *charsmap; /* precompiled normalisation rules; NULL: none */
    size_t n_charsmap;
} hn_tok_sp;

struct hn_tokenizer {
    hn_tok_vocab vocab;
    hn_tok_model model;
    hn_tok_merges merges;
    bool ignore_merges, byte_fallback, fuse_unk;
    char mark[4]; /* words can be merged in parts that begin with this mark; n_mark 0: cannot */
    size_t n_mark;
    int32_t unk_model; /* what the model gives for unknown text; -1: drops it */
    hn_tok_sp sp;

    hn_tok_added *added;
    int64_t n_added, cap_added;
    int32_t max_added;              /* largest id of an added token, -1: none */
    bool is_json;                   /* from a tokenizer.json, which knows its added tokens best */
    hn_tok_matcher raw, normalized; /* index into added */

    hn_tok_norm *norm;
    int64_t n_norm, cap_norm;
    hn_tok_split *split;
    int64_t n_split, cap_split;
    hn_tok_dec *dec;
    int64_t n_dec, cap_dec;
    hn_tokens prefix, suffix; /* ADD_SPECIAL */

    int32_t bos, eos, unk;
    int add_bos, add_eos; /* settings: 0 no, 1 yes, -1 not said */
    char digest[HN_SHA256_HEX];
    char *source;
};

/* ---- the work of one call ---- */

typedef struct {
    size_t at, n; /* bytes of the text at hand */
    bool match;   /* while splitting: the pattern matched this one */
    bool first;   /* begins at byte 0 of the caller's text */
} hn_tok_seg;
typedef struct {
    hn_tok_seg *v;
    int64_t n, cap;
} hn_tok_segs;
HN_NODISCARD hn_status hn_segs_push(hn_tok_segs *s, hn_tok_seg seg);

typedef struct {
    size_t at, n;
    int32_t added; /* index; -1: text */
} hn_tok_cut;
typedef struct {
    hn_tok_cut *v;
    int64_t n, cap;
} hn_tok_cuts;

typedef struct {
    size_t at;
    uint32_t n;         /* bytes; 0: merged away */
    int32_t id;         /* -1: no piece of that text */
    int32_t prev, next; /* -1: none */
    bool frozen;        /* never merges */
} hn_tok_symbol;

typedef struct {
    uint32_t rank;
    int32_t left; /* symbol */
    uint32_t n;   /* bytes of both together: tells a stale entry */
    int32_t id;   /* of the merged piece */
} hn_tok_pair;

typedef struct {
    double best;
    size_t from;
    int32_t id; /* -1: nothing ends here */
} hn_tok_node;

typedef struct {
    hn_regex_scratch *regex;
    hn_text norm[2], split[2]; /* ping and pong */
    hn_text fixed;             /* the input, made valid */
    hn_tok_segs segs[2], found;
    hn_tok_cuts outer, inner; /* at raw and at normalised added tokens */
    hn_tok_symbol *symbol;
    int64_t n_symbols, cap_symbols;
    hn_tok_pair *heap;
    int64_t n_heap, cap_heap;
    hn_tok_node *node;
    int64_t cap_nodes;
    int32_t *chars, *sorted;
    int64_t cap_chars, cap_sorted;
    int32_t *unused_cut; /* [n_ids] bytes of the left half an unused piece was last made of */
    bool last_unk;       /* SentencePiece: the last token of this text is the unknown one */
} hn_tok_work;
void hn_work_free(hn_tok_work *w);

HN_NODISCARD hn_status hn_tokens_push(hn_tokens *t, int32_t id);

/* Normalises in[0..n) into *out, which points into w or at the input itself. cut: something was
 * removed at the beginning. */
HN_NODISCARD hn_status hn_normalize(const hn_tokenizer *t, hn_tok_work *w, const char *in, size_t n,
                                    const char **out, size_t *n_out, bool *cut);
HN_NODISCARD hn_status hn_sp_normalize(const hn_tok_sp *sp, const char *in, size_t n, hn_text *out);
HN_NODISCARD hn_status hn_charsmap_check(const unsigned char *map, size_t n, const char *where);
/* The longest rule that matches at s: bytes it replaces (0: none) and what stands for them. */
size_t hn_charsmap_find(const unsigned char *map, size_t n_map, const char *s, size_t n,
                        const char **to, size_t *n_to);
/* Cuts in[0..n) into *segs over *text. */
HN_NODISCARD hn_status hn_pretokenize(const hn_tokenizer *t, hn_tok_work *w, const char *in,
                                      size_t n, bool first, const char **text,
                                      const hn_tok_segs **segs);
/* Splits s[0..n) at the added tokens of a matcher. */
HN_NODISCARD hn_status hn_added_split(const hn_tokenizer *t, const hn_tok_matcher *m, const char *s,
                                      size_t n, bool parse_special, hn_tok_cuts *out);
/* Registers a token whose id is in the vocabulary already (hn_vocab_set); replaces what was
 * registered under that id. */
HN_NODISCARD hn_status hn_added_push(hn_tokenizer *t, hn_tok_added a);
/* After all are known: builds both matchers. */
HN_NODISCARD hn_status hn_added_finish(hn_tokenizer *t);

HN_NODISCARD hn_status hn_bpe_encode(const hn_tokenizer *t, hn_tok_work *w, const char *s, size_t n,
                                     hn_tokens *out);
void hn_bpe_find_mark(hn_tokenizer *t); /* sets mark, n_mark */
HN_NODISCARD hn_status hn_piece_encode(const hn_tokenizer *t, hn_tok_work *w, const char *s,
                                       size_t n, hn_tokens *out);
HN_NODISCARD hn_status hn_unigram_encode(const hn_tokenizer *t, hn_tok_work *w, const char *s,
                                         size_t n, hn_tokens *out);
HN_NODISCARD hn_status hn_pattern_find(const hn_tok_pattern *p, hn_regex_scratch *scratch,
                                       const char *s, size_t n, size_t from, bool *found,
                                       size_t *begin, size_t *end);
HN_NODISCARD hn_status hn_pattern_replace(const hn_tok_pattern *p, hn_regex_scratch *scratch,
                                          const char *s, size_t n, const char *to, size_t n_to,
                                          hn_text *out);
void hn_pattern_free(hn_tok_pattern *p);

/* The printable character of a byte in the byte-level alphabet, and back (-1: none). */
int32_t hn_byte_char(unsigned char b);
int hn_char_byte(int32_t codepoint);

/* ---- building ---- */

HN_NODISCARD hn_status hn_tok_new(hn_tokenizer **out);
HN_NODISCARD hn_status hn_tok_add_norm(hn_tokenizer *t, hn_tok_norm step);   /* takes over what */
HN_NODISCARD hn_status hn_tok_add_split(hn_tokenizer *t, hn_tok_split step); /* the step holds, */
HN_NODISCARD hn_status hn_tok_add_dec(hn_tokenizer *t, hn_tok_dec step);     /* errors included */
HN_NODISCARD hn_status hn_tok_add_regex(hn_tokenizer *t, const char *regex, hn_tok_keep keep,
                                        const char *where);
/* The steps that GGUF files and tokenizer classes name instead of spelling out. */
HN_NODISCARD hn_status hn_tok_known_pre(hn_tokenizer *t, const char *name, const char *where);
extern const char hn_tok_gpt2_regex[];
/* SentencePiece: matchers, byte ids, ranks, control pieces as special tokens, normalizer and
 * decoder steps; t->sp, t->model and the pieces are set. */
HN_NODISCARD hn_status hn_tok_finish_sp(hn_tokenizer *t, const char *where);
/* "left right" lines or pairs; both and their concatenation must be in the vocabulary. */
HN_NODISCARD hn_status hn_tok_add_merge(hn_tokenizer *t, const char *left, size_t n_left,
                                        const char *right, size_t n_right, int64_t rank,
                                        const char *where);

/* ---- files; `where` names the bytes in errors. Each makes a whole tokenizer but for the
 * settings beside the file (hn_tok_settings) and hn_tok_seal. ---- */

HN_NODISCARD hn_status hn_tok_parse_json(const char *text, size_t n, const char *where,
                                         hn_tokenizer **out);
HN_NODISCARD hn_status hn_tok_parse_sp(const unsigned char *data, size_t n, const char *where,
                                       hn_tokenizer **out);
/* used: bytes up to the end of the key-value part */
HN_NODISCARD hn_status hn_tok_parse_gguf(const unsigned char *data, size_t n, const char *where,
                                         size_t *used, hn_tokenizer **out);
HN_NODISCARD hn_status hn_tok_parse_llama2c(const unsigned char *data, size_t n, const char *where,
                                            hn_tokenizer **out);
/* pre: "gpt-2" or "qwen2" */
HN_NODISCARD hn_status hn_tok_parse_gpt2(const char *vocab, size_t n_vocab, const char *merges,
                                         size_t n_merges, const char *pre, const char *where,
                                         hn_tokenizer **out);
/* Components of tokenizer.json (tokenizer_json_steps.c). */
HN_NODISCARD hn_status hn_tok_json_normalizer(hn_tokenizer *t, const json_t *j, const char *where);
HN_NODISCARD hn_status hn_tok_json_pre(hn_tokenizer *t, const json_t *j, const char *where);
HN_NODISCARD hn_status hn_tok_json_post(hn_tokenizer *t, const json_t *j, const char *where);
HN_NODISCARD hn_status hn_tok_json_decoder(hn_tokenizer *t, const json_t *j, const char *where);
/* An object of tokens to ids. */
HN_NODISCARD hn_status hn_tok_json_vocab(hn_tokenizer *t, const json_t *vocab, const char *where);
/* An added token as tokenizer.json and added_tokens_decoder write it. A content that the
 * vocabulary has must have that id. n_model >= 0: tokenizer.json with so many tokens in its model;
 * a new token must have the id the library would give it. n_model -1: a file beside. */
HN_NODISCARD hn_status hn_tok_json_added(hn_tokenizer *t, const json_t *j, int64_t id,
                                         int64_t n_model, const char *where);

/* Reads the files beside the tokenizer in `dir`. */
HN_NODISCARD hn_status hn_tok_settings(hn_tokenizer *t, const char *dir);
/* Builds the matchers, prefix and suffix; last step before use. files: digest of the files. */
HN_NODISCARD hn_status hn_tok_seal(hn_tokenizer *t, const char *files);

#ifdef __cplusplus
}
#endif
#endif
