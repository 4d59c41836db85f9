"""RoPE tables of every rope_type, by Transformers' own rotary embedding.

Writes tests/golden/rope.json, a list of cases:

  config     rope_theta, rope_parameters (without the theta), head_dim, max_position_embeddings,
             partial_rotary_factor where it is not 1
  length     tokens of the sequence: dynamic and longrope look at it
  positions  the rows below
  inv_freq   [rotary_dim / 2], fp32
  cos, sin   [positions][rotary_dim / 2], fp32, attention factor included. Transformers repeats
             the same values for the second half.
"""

import numpy as np
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from golden_util import GOLDEN, f9s, versions, write_json


def factors(first, last, n=8):
    return [round(float(v), 4) for v in np.geomspace(first, last, n)]


LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 64,
    "short_factor": factors(1.0, 1.5),
    "long_factor": factors(1.0, 12.0),
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

# (rope_parameters, theta, max_position_embeddings, sequence length)
CASES = [
    ({"rope_type": "default"}, 10000.0, 256, 200),
    ({"rope_type": "default"}, 1000000.0, 256, 200),
    ({"rope_type": "linear", "factor": 4.0}, 10000.0, 256, 200),
    ({"rope_type": "dynamic", "factor": 2.0}, 10000.0, 64, 64),
    ({"rope_type": "dynamic", "factor": 2.0}, 10000.0, 64, 200),
    (YARN, 10000.0, 256, 200),
    ({**YARN, "beta_fast": 16.0, "beta_slow": 2.0}, 500000.0, 256, 200),
    ({**YARN, "attention_factor": 1.25}, 10000.0, 256, 200),
    ({**YARN, "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0}, 10000.0, 256, 200),
    ({**YARN, "truncate": False}, 10000.0, 256, 200),
    (LONGROPE, 10000.0, 256, 64),
    (LONGROPE, 10000.0, 256, 200),
    ({**LONGROPE, "attention_factor": 1.5}, 10000.0, 256, 200),
    (
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        10000.0,
        256,
        200,
    ),
]


def case(rope, theta, max_positions, length, head_dim=16):
    config = LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=max_positions,
        rope_parameters={**rope, "rope_theta": theta},
    )
    rotary = LlamaRotaryEmbedding(config)
    positions = [p for p in (0, 1, 2, 7, 31, 63, 64, 127, 199) if p < length]
    # One call over the whole sequence: the length decides, then rows are picked.
    cos, sin = rotary(torch.zeros(1, 1), torch.arange(length)[None])
    half = rotary.inv_freq.numel()
    assert torch.equal(cos[..., :half], cos[..., half:])
    return {
        "config": {
            "rope_theta": theta,
            "rope_parameters": rope,
            "head_dim": head_dim,
            "max_position_embeddings": max_positions,
        },
        "length": length,
        "positions": positions,
        "inv_freq": f9s(rotary.inv_freq),
        "cos": [f9s(cos[0, p, :half]) for p in positions],
        "sin": [f9s(sin[0, p, :half]) for p in positions],
    }


def main():
    out = {"made_by": "tests/golden/make_rope_golden.py", "versions": versions()}
    for k, c in enumerate(CASES):
        out[f"case_{k:02d}_{c[0]['rope_type']}"] = case(*c)
    write_json(GOLDEN / "rope.json", out)


if __name__ == "__main__":
    main()
