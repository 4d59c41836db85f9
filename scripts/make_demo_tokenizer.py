#!/usr/bin/env python3
"""Trains the demo's tokenizer: byte-level BPE, 1,024 tokens, on the text to pretrain on.

    pip install tokenizers
    make_demo_tokenizer.py --stories stories.jsonl --out assets/demo

Token 0 is <s> (put before every text), 1 is </s> (end of a document), then the 256 bytes, then
merges. Every text can be encoded; there is no <unk>. Writes tokenizer.json and
tokenizer_config.json. The text to fine-tune on is left out on purpose: LoRA keeps the embedding, so
a token that only that text has would keep its random start.
"""

import argparse
import json
import pathlib

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCAB = 1024


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--stories", required=True)
    p.add_argument("--out", required=True)
    a = p.parse_args()
    texts = [json.loads(line)["text"] for line in open(a.stories)]
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tok.train_from_iterator(texts, trainer)
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
    )
    assert tok.get_vocab_size() == VOCAB
    out = pathlib.Path(a.out)
    # Compact: the default layout puts every merge on four lines.
    data = json.loads(tok.to_str())
    (out / "tokenizer.json").write_text(json.dumps(data, separators=(",", ":")) + "\n")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": 256,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    text = "\n".join(texts)
    print(f"{len(text) / len(tok.encode(text).ids):.2f} characters a token")


if __name__ == "__main__":
    main()
