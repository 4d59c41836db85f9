"""What the golden scripts share: hone's random numbers in numpy, the character vocabulary, JSON.

The scripts run in a Python environment outside the repository:

    python3 -m venv VENV && VENV/bin/pip install torch transformers peft safetensors numpy
    VENV/bin/python tests/golden/make_<what>_golden.py

They are not part of the build and of no test; tests read only the files they wrote.
"""

import json
import os
import pathlib
import platform

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
FIXTURES = ROOT / "tests" / "fixtures"
MASK32 = np.uint64(0xFFFFFFFF)
MASK64 = (1 << 64) - 1


def data_dir(argument=None):
    """The folder with the real data: argument, then HONE_DATA, then ../shared/data."""
    return pathlib.Path(argument or os.environ.get("HONE_DATA") or ROOT.parent / "shared" / "data")


# --- runtime/base/rng.h ---------------------------------------------------------------------


def hash_name(name):
    """hn_hash_name: FNV-1a, 64 bits."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK64
    return h


def rng_make(seed, step, op):
    """hn_rng_make: (k0, k1, step)."""
    z = (seed + 0x9E3779B97F4A7C15 * (op | 1) + (op >> 1)) & MASK64
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK64
    z ^= z >> 31
    return z & 0xFFFFFFFF, z >> 32, step & 0xFFFFFFFF


def rng_words(rng, rows, cols):
    """hn_rng_u32 of all (row, col) with row < rows, col < cols: uint32 [rows, cols]."""
    k0, k1, step = rng
    blocks = (cols + 3) // 4
    row = np.arange(rows, dtype=np.uint64)[:, None]
    c = [
        np.broadcast_to(np.arange(blocks, dtype=np.uint64)[None, :], (rows, blocks)),
        np.broadcast_to(row & MASK32, (rows, blocks)),
        np.broadcast_to(row >> np.uint64(32), (rows, blocks)),
        np.full((rows, blocks), step, dtype=np.uint64),
    ]
    for _ in range(10):
        a = np.uint64(0xD2511F53) * c[0]
        b = np.uint64(0xCD9E8D57) * c[2]
        c = [
            (b >> np.uint64(32)) ^ c[1] ^ np.uint64(k0),
            b & MASK32,
            (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k1),
            a & MASK32,
        ]
        k0 = (k0 + 0x9E3779B9) & 0xFFFFFFFF
        k1 = (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, axis=-1).reshape(rows, blocks * 4)[:, :cols].astype(np.uint32)


def lora_a(seed, name, rank, width):
    """The A of an adapted linear, float32 [rank, width], uniform in +-1/sqrt(width).

    name   module path of the linear + ".lora_A", "model.layers.0.self_attn.q_proj.lora_A"
    word   hn_rng_u32(hn_rng_make(seed, 0, hn_hash_name(name)), row, col)
    A      (2 * (word >> 8) * 2^-24 - 1) / sqrt(width): the numerator is exact in float32, the
           root is rounded to float32, the quotient is the only other rounding.
    """
    words = rng_words(rng_make(seed, 0, hash_name(name)), rank, width)
    unit = (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return (np.float32(2) * unit - np.float32(1)) / np.float32(np.sqrt(np.float64(width)))


# --- text -----------------------------------------------------------------------------------


def character_ids(vocab_path, text_path, share=0.9):
    """The first `share` of the text's bytes and the rest, as ids of tok105.vocab.

    One character is one token: space is U+2581, a character without entry (newline) is <unk> 0.
    No BOS, no leading space mark.
    """
    lines = pathlib.Path(vocab_path).read_text(encoding="utf-8").split("\n")
    ids = {line.split("\t")[0]: i for i, line in enumerate(lines) if line}
    ids[" "] = ids["\u2581"]
    raw = pathlib.Path(text_path).read_bytes()
    cut = int(len(raw) * share)
    return tuple(
        np.array([ids.get(ch, 0) for ch in part.decode("ascii")], dtype=np.int64)
        for part in (raw[:cut], raw[cut:])
    )


# --- JSON -----------------------------------------------------------------------------------


def f9(value):
    """A float that JSON prints with at most nine significant digits (exact for float32)."""
    return float("%.9g" % float(value))


def f9s(values):
    return [f9(v) for v in np.asarray(values, dtype=np.float64).ravel()]


def versions():
    import peft
    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def write_json(path, value):
    """One top-level key a line, so that a diff shows what changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()]
    path.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")
