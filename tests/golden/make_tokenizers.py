#!/usr/bin/env python3
"""Makes tests/fixtures/tokenizers: small tokenizers of our own and what the libraries that own the
formats say about them. Run from the project's root:

    pip install tokenizers==0.23.3 sentencepiece==0.2.3 protobuf
    python tests/golden/make_tokenizers.py [tokenizer.model.v1 of mistral]

golden.json     texts; per file: ids (plain, with special tokens, with special tokens parsed) and
                decoded texts
components.json normalizers, pre-tokenizers, decoders and regexes one at a time
"""
import io
import json
import os
import sys

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

OUT = "tests/fixtures/tokenizers"

TRAIN = """The quick brown fox jumps over the lazy dog. It wasn't me; we'll see what they've done!
Once upon a time there was a little girl. She loved to play outside, and she'd sing all day.
def main(argc, argv):\n    if argc > 1:\n        return argv[1] + "x"\n    return 0\n
In 2024 the price rose from 1,234.50 to 98765 dollars (about 12.5%).
Größe, Übermut, naïve façade, coöperate, mañana, crème brûlée, Straße.
Съешь же ещё этих мягких французских булок, да выпей чаю. Привет, мир!
日本語のテキストを少し入れておきます。東京は大きな都市です。
नमस्ते दुनिया। مرحبا بالعالم. שלום עולם. 안녕하세요 세계.
Emoji: 😀 😀 👍🏽 👨‍👩‍👧‍👦 🇩🇪 ❤️
""".split("\n") * 3

TEXTS = [
    "", " ", "  ", "   a", "a", "hello", "Hello world", " Hello world", "Hello  world ", "\n", "\n\n",
    "a\nb", "a\r\nb\r\n\r\n  c", "\t\ttabs\t and \n newlines \n\n\n", "trailing space   ",
    "   leading and   inner    spaces", "The quick brown fox wasn't there, they'LL say: I'VE 'd 's",
    "Don't you'Re 'ſ 'S", "1 12 123 1234 12345 123456 3.14 1,000,000 ½ ²³ Ⅷ ٣٤٥ ४५", "x=1;y[2]+=z*3--",
    "def main(argc):\n    return argc\n\n\tif x:\n\t\tpass", "!!!???...,,,---___", "foo_bar-baz/qux@x.y",
    "Größe naïve crème brûlée", "Gro\u0308\u00dfe nai\u0308ve a\u0301\u0323 a\u0323\u0301 \u1e69 s\u0323\u0307",
    "ﬁ ﬂ Å \u212b \u2126 \u1100\u1161\u11a8 각 한국어", "Привет, мир! Съешь ещё", "日本語のテキスト。東京", "你好，世界！",
    "नमस्ते दुनिया", "مرحبا بالعالم", "שָׁלוֹם", "ไทยแลนด์", "안녕하세요", "😀", "😀😀👍🏽", "👨‍👩‍👧‍👦 🇩🇪 ❤️",
    "a\u200bb\u200cc\u200dd\ufeffe", "\u00a0nbsp\u2003em\u3000ideographic\u180emvs\u0085nel\u2028ls", "▁ ▁▁a▁b",
    "\x00\x01\x02\x1f\x7f", "a\x00b", "\ufffd\ufffe", "\U0010ffff\U000e0001", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ⓐⓑⓒ",
    "İstanbul ΣΑΣ ǅ ẞ", "<s>", "</s> x", "a<s>b", "<unk>", "<|endoftext|>", "text<|endoftext|>more <|endoftext|> x",
    " <mask> ", "a <mask>b<mask>  c", "word<word>word <word> x", "<lo>we<lo>", "Größe<NORM>x <norm> y", "<0x0A><0xff>",
    "[INST] hi [/INST]", "<|im_start|>user\nhi<|im_end|>\n", "<s", "s>", "<|endof", "  <s>  hello </s>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "ababababababab" * 4, "the the the theatre them",
    "supercalifragilisticexpialidocious", "      \n      \n   x", " \n", "\n ", "x \n y", "e\u0301" * 5,
]

GPT2 = None  # ByteLevel brings its own
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN3_MARKS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
               r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def train(tok, trainer):
    tok.train_from_iterator(TRAIN, trainer)
    return tok


def byte_level_gpt2():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    return train(tok, trainers.BpeTrainer(vocab_size=420, special_tokens=["<|endoftext|>"], show_progress=False,
                                          initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))


def byte_level_prefix():
    tok = byte_level_gpt2()
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tok.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True), "<s>", "</s>"])
    tok.post_processor = processors.RobertaProcessing(("</s>", tok.token_to_id("</s>")), ("<s>", tok.token_to_id("<s>")))
    return tok


def split_regex(regex, ignore_merges, specials, normalizer):
    tok = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        tok.normalizer = normalizer
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    train(tok, trainers.BpeTrainer(vocab_size=420, show_progress=False,
                                   initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.add_special_tokens(specials)
    return tok


def llama3():
    tok = split_regex(LLAMA3, True, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], None)
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|endoftext|> $A", pair="<|endoftext|> $A <|endoftext|> $B",
                                      special_tokens=[("<|endoftext|>", tok.token_to_id("<|endoftext|>"))])])
    return tok


def qwen2():
    return split_regex(QWEN2, False, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], normalizers.NFC())


def qwen3_marks():
    tok = split_regex(QWEN3_MARKS, False, ["<|endoftext|>"], normalizers.NFC())
    tok.add_tokens([AddedToken("<|im_start|>", normalized=False), AddedToken("<|im_end|>", normalized=True)])
    return tok


def byte_bpe(**options):
    """BPE over characters with byte pieces in front, as SentencePiece conversions have it."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    specials = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
    tok.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    train(tok, trainers.BpeTrainer(vocab_size=560, special_tokens=specials, show_progress=False,
                                   limit_alphabet=80))
    data = json.loads(tok.to_str())
    data["added_tokens"] = [a for a in data["added_tokens"] if a["id"] < 3]
    data["pre_tokenizer"] = None
    data["model"].update(options)
    return data


def llama2():
    data = byte_bpe()
    tok = Tokenizer.from_str(json.dumps(data))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> <s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tok.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, special=True)])
    tok.add_tokens([AddedToken("<word>", single_word=True), AddedToken("<lo>", normalized=False),
                    AddedToken("<norm>", normalized=True), AddedToken("[INST]", rstrip=True, normalized=False)])
    return tok


def mistral_metaspace():
    tok = Tokenizer.from_str(json.dumps(byte_bpe()))
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B",
                                                       special_tokens=[("<s>", 1)])
    return tok


def gemma_like():
    tok = Tokenizer.from_str(json.dumps(byte_bpe()))
    tok.normalizer = normalizers.Replace(" ", "▁")
    tok.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tok


def bpe_unk(fuse):
    """No byte fallback, old spelling of the merges, lower case in front."""
    data = byte_bpe(byte_fallback=False, fuse_unk=fuse)
    data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
    tok = Tokenizer.from_str(json.dumps(data))
    tok.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tok.decoder = decoders.Metaspace(prepend_scheme="always")
    tok.add_tokens([AddedToken("<NORM>", normalized=True)])
    out = json.loads(tok.to_str())
    out["model"]["merges"] = data["model"]["merges"]
    return json.dumps(out, ensure_ascii=False)


def unigram(byte_fallback):
    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizers.NFKC()
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.decoder = decoders.Metaspace()
    specials = ["<unk>", "<s>", "</s>"]
    train(tok, trainers.UnigramTrainer(vocab_size=330, special_tokens=specials, unk_token="<unk>",
                                       show_progress=False))
    data = json.loads(tok.to_str())
    if byte_fallback:
        data["model"]["byte_fallback"] = True
        data["model"]["vocab"] += [["<0x%02X>" % b, -30.0] for b in range(256)]
        data["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, data["decoder"]]}
    return Tokenizer.from_str(json.dumps(data))


def word_level():
    tok = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tok.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(),
                                           normalizers.Strip()])
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
    return train(tok, trainers.WordLevelTrainer(vocab_size=200, special_tokens=["<unk>", "<s>"], show_progress=False))


JSON = {"gpt2": byte_level_gpt2, "roberta": byte_level_prefix, "llama3": llama3, "qwen2": qwen2,
        "qwen3_marks": qwen3_marks, "llama2": llama2, "mistral": mistral_metaspace, "gemma": gemma_like,
        "bpe_unk": lambda: bpe_unk(False), "bpe_fuse_unk": lambda: bpe_unk(True), "unigram": lambda: unigram(False),
        "unigram_bytes": lambda: unigram(True), "word_level": word_level}


def golden_json(tok):
    cases = []
    for text in TEXTS:
        tok.encode_special_tokens = True
        plain = tok.encode(text, add_special_tokens=False).ids
        special = tok.encode(text, add_special_tokens=True).ids
        tok.encode_special_tokens = False
        parsed = tok.encode(text, add_special_tokens=False).ids
        cases.append({"plain": plain, "special": special, "parsed": parsed,
                      "decoded": tok.decode(parsed, skip_special_tokens=False),
                      "skipped": tok.decode(special, skip_special_tokens=True)})
    return cases


# ---- SentencePiece ----

RULES = "41\t61\n42\t62\n41 300\t61\n3B1 301\t3AC\n2460\t31\nFF01\t21\n9\t20\nA\t20\nA0\t20\nFB01\t66 69\n200B\t\n"


def sentencepiece(**options):
    model = io.BytesIO()
    base = dict(sentence_iterator=iter(TRAIN), model_writer=model, vocab_size=300, hard_vocab_limit=False,
                character_coverage=0.98, minloglevel=2, normalization_rule_name="identity")
    base.update(options)
    spm.SentencePieceTrainer.train(**base)
    return model.getvalue()


def unused(data):
    """Every third merged piece becomes unused: it is cut again after it was made."""
    m = pb.ModelProto()
    m.ParseFromString(data)
    for i, p in enumerate(m.pieces):
        if p.type == 1 and len(p.piece) > 1 and i % 3 == 0:
            p.type = 5
    return m.SerializeToString()


def make_sentencepiece():
    rules = os.path.join(OUT, "rules.tsv")
    with open(rules, "w") as f:
        f.write(RULES)
    ud = dict(user_defined_symbols=["<mask>", "def", "ab"], control_symbols=["<|endoftext|>", "[INST]"])
    out = {
        "sp_bpe": sentencepiece(model_type="bpe", byte_fallback=True, vocab_size=560,
                                remove_extra_whitespaces=False, **ud),
        "sp_bpe_spaces": sentencepiece(model_type="bpe", **ud),
        "sp_unigram": sentencepiece(model_type="unigram", **ud),
        "sp_unigram_rules": sentencepiece(model_type="unigram", normalization_rule_name="", normalization_rule_tsv=rules,
                                          byte_fallback=True, vocab_size=560),
        "sp_char": sentencepiece(model_type="char", add_dummy_prefix=False, vocab_size=120),
    }
    out["sp_bpe_unused"] = unused(out["sp_bpe"])
    out["sp_unigram_unused"] = unused(out["sp_unigram"])
    os.remove(rules)
    return out


def golden_sp(data):
    sp = spm.SentencePieceProcessor(model_proto=data)
    cases = []
    for text in TEXTS:
        ids = sp.encode(text)
        cases.append({"plain": ids, "skipped": sp.decode(ids)})
    return cases


# ---- one component at a time ----

NORMALIZERS = [
    {"type": "NFC"}, {"type": "NFD"}, {"type": "NFKC"}, {"type": "NFKD"}, {"type": "Lowercase"}, {"type": "StripAccents"},
    {"type": "Strip", "strip_left": True, "strip_right": False}, {"type": "Strip", "strip_left": False, "strip_right": True},
    {"type": "Replace", "pattern": {"String": "a"}, "content": "<<"}, {"type": "Replace", "pattern": {"String": "  "}, "content": ""},
    {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": "▁"}, {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"Regex": "[aeiou](?=[a-z])"}, "content": "*"},
    {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "x "}, {"type": "NFKD"}, {"type": "StripAccents"}]},
]
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
PRE = ([{"type": "Split", "pattern": {"Regex": r"\s"}, "behavior": b, "invert": i} for b in BEHAVIORS for i in (False, True)]
       + [{"type": "Split", "pattern": {"String": "a"}, "behavior": b, "invert": False} for b in BEHAVIORS]
       + [{"type": "Punctuation", "behavior": b} for b in BEHAVIORS]
       + [{"type": "Split", "pattern": {"Regex": r}, "behavior": "Isolated", "invert": False} for r in (
           LLAMA3, QWEN2, QWEN3_MARKS, r"\w+|[^\w\s]+", r"[^\S\n]+", r"\d{1,3}(?=(?:\d{3})*\b)".replace(r"\b", "$"),
           r"(?<=[a-z])(?=[A-Z])|_", r"^.+$", r"[\p{P}\$\+<=>\^~\|]+", r"\p{Han}+", r"(?>a+)b|a++", r"[^\r\n\p{L}\p{N}]?+\p{L}++",
           r"\A\s+|\s+\z", r"[\u0041-\u005a]+", r"[\x{61}-\x{7a}]+|\x41")]
       + [{"type": "Digits", "individual_digits": i} for i in (False, True)]
       + [{"type": "Whitespace"}, {"type": "WhitespaceSplit"}, {"type": "BertPreTokenizer"}]
       + [{"type": "ByteLevel", "add_prefix_space": a, "trim_offsets": True, "use_regex": u} for a in (False, True) for u in (False, True)]
       + [{"type": "Metaspace", "replacement": "▁", "prepend_scheme": s, "split": c} for s in ("always", "first", "never") for c in (False, True)]
       + [{"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "_", "prepend_scheme": s, "split": True},
                                                  {"type": "Digits", "individual_digits": True}]} for s in ("always", "first")])
TOKENS = ["▁Hello", "▁world", "<0x0A>", "<0xE2>", "<0x82>", "<0xAC>", "<0xFF>", "a", "▁", "▁▁x", " b ", "Ġc", "Ċ", "â", "é", "ã", "日",
          "<s>", "  ", "b", "aba", "x▁y▁"]
SEQUENCES = [list(range(len(TOKENS))), [0, 1], [1, 0], [8, 0], [9, 1], [2, 2, 7], [3, 4, 5, 6], [3, 4], [6, 3, 4, 5, 0], [7, 3, 4, 7], [17, 0, 1],
             [11, 12, 13, 14, 15, 16], [18, 10, 18], [], [19, 20, 19], [21, 21], [3, 4, 5, 3, 4, 5], [13, 13, 7], [8], [18]]
DECODERS = [
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}, {"type": "Strip", "content": "b", "start": 1, "stop": 2},
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Replace", "pattern": {"Regex": "[ab]+"}, "content": "-"},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}, None,
    {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                                      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}]},
    {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Strip", "content": "\n", "start": 1, "stop": 1}]},
    {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}, {"type": "ByteFallback"},
                                      {"type": "Replace", "pattern": {"Regex": "a"}, "content": "xyz"}, {"type": "Strip", "content": "x", "start": 1, "stop": 0}]},
    {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "b"}, "content": "c"},
                                      {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}]},
    {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "▁w"}, "content": "W"},
                                      {"type": "Strip", "content": " ", "start": 2, "stop": 1}]},
]


def shell(**parts):
    data = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
            "post_processor": None, "decoder": None,
            "model": {"type": "WordLevel", "vocab": {t: i for i, t in enumerate(TOKENS)}, "unk_token": "a"}}
    data.update(parts)
    return Tokenizer.from_str(json.dumps(data))


def decode(tok, ids):
    """null where the library panics (Strip cutting one character at both ends)."""
    try:
        return tok.decode(ids, skip_special_tokens=False)
    except BaseException as e:  # pyo3's PanicException is no Exception
        if type(e).__name__ != "PanicException":
            raise
        return None


def components():
    texts = [t for t in TEXTS if t]
    return {
        "texts": texts, "tokens": TOKENS, "sequences": SEQUENCES,
        "normalizers": [{"config": c, "out": [shell(normalizer=c).normalizer.normalize_str(t) for t in texts]} for c in NORMALIZERS],
        "pre_tokenizers": [{"config": c, "out": [[p for p, _ in shell(pre_tokenizer=c).pre_tokenizer.pre_tokenize_str(t)] for t in texts]}
                           for c in PRE],
        "decoders": [{"config": c, "out": [decode(shell(decoder=c), s) for s in SEQUENCES]} for c in DECODERS],
    }


def dump(name, value):
    with open(os.path.join(OUT, name), "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def main():
    os.makedirs(OUT, exist_ok=True)
    golden = {"texts": TEXTS, "files": {}}
    for name, make in JSON.items():
        tok = make()
        text = tok if isinstance(tok, str) else tok.to_str()
        dump(name + ".json", json.loads(text))
        golden["files"][name + ".json"] = golden_json(Tokenizer.from_str(text))
    for name, data in make_sentencepiece().items():
        with open(os.path.join(OUT, name + ".model"), "wb") as f:
            f.write(data)
        golden["files"][name + ".model"] = golden_sp(data)
    if len(sys.argv) > 1:
        golden["mistral"] = golden_sp(open(sys.argv[1], "rb").read())
    dump("golden.json", golden)
    dump("components.json", components())


main()
