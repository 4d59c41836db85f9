"""Tiny random models of every decoder family, with logits, loss and gradients by Transformers.

Writes tests/fixtures/models/<name>/ as Hugging Face directories (config.json written by hand in
the spelling under test, model.safetensors or shards + index) and beside them

  golden.safetensors  tokens I32 [24], logits F32 [24, vocab]: one sequence;
                      packed_logits F32 [24, vocab], packed_offsets I32 [3]: the same tokens as two
                      independent sequences, rows packed_offsets[k] .. packed_offsets[k+1]-1
  golden.json         loss        mean over 23 rows of -log p(tokens[i+1] | tokens[..i])
                      grad_l2     2-norm of the loss's gradient, by parameter (file's name)
                      grad_probe  sum_i grad[i] * cos(i), i = row-major index: differs when
                                  elements are permuted

All arithmetic is fp32 with eager attention. A tied head is one parameter with one gradient.
"""

import json

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from golden_util import FIXTURES, ROOT, f9, versions, write_json

LENGTH, CUT = 24, 9

COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# What each one tests is in its own lines; "stored" is the file's element type.
MODELS = {
    # Transformers 4 spelling of llama3 frequencies (all three branches at head_dim 8), all biases.
    "llama": {
        "stored": torch.float32,
        "shards": 1,
        "config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "rms_norm_eps": 1e-5,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
            "rope_theta": 10000.0,
            "rope_scaling": {
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 64,
                "rope_type": "llama3",
            },
            "torch_dtype": "float32",
        },
    },
    # float16 on disk, keys left to their defaults, rope_scaling null.
    "llama_f16": {
        "stored": torch.float16,
        "shards": 1,
        "config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "rope_scaling": None,
            "torch_dtype": "float16",
        },
    },
    # The window is shorter than the sequence; two shards with an index.
    "mistral": {
        "stored": torch.float32,
        "shards": 2,
        "config": {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "sliding_window": 8,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
        },
    },
    # Biases on q, k, v only, tied head, window switched off although a length is given.
    "qwen2": {
        "stored": torch.float32,
        "shards": 1,
        "config": {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "use_sliding_window": False,
            "sliding_window": 8,
            "max_window_layers": 2,
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
        },
    },
    # Layers from max_window_layers on use the window: layer 0 sees all, layer 1 sees 8.
    "qwen2_window": {
        "stored": torch.float32,
        "shards": 1,
        "config": {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 1,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
        },
    },
    # Transformers 5 spelling (rope_parameters, dtype) of yarn; norms on q and k heads;
    # head_dim 12 is not hidden/heads = 8.
    "qwen3": {
        "stored": torch.float32,
        "shards": 1,
        "config": {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "rms_norm_eps": 1e-6,
            "head_dim": 12,
            "attention_bias": False,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            },
            "use_sliding_window": False,
            "tie_word_embeddings": True,
            "dtype": "float32",
        },
    },
}


def random_weights(model, seed):
    """Every parameter filled so that nothing is at its default: sizes that keep logits near 1."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.from_numpy(rng.standard_normal(tuple(p.shape)).astype(np.float32))
            if name.endswith("norm.weight"):
                p.copy_(1 + 0.2 * noise)
            elif name.endswith(".bias"):
                p.copy_(0.2 * noise)
            elif "embed_tokens" in name:
                p.copy_(0.5 * noise)
            else:
                p.copy_(noise / p.shape[1] ** 0.5)


def save_weights(folder, tensors, shards):
    meta = {"format": "pt"}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata=meta)
        return
    names = sorted(tensors)
    weight_map = {}
    for k in range(shards):
        part = {n: tensors[n] for n in names[k::shards]}
        file = f"model-{k + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part, folder / file, metadata=meta)
        weight_map.update({n: file for n in part})
    index = {
        "metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())},
        "weight_map": dict(sorted(weight_map.items())),
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def make(name, spec, seed):
    folder = FIXTURES / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    config = {**COMMON, **spec["config"]}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    random_weights(fresh, seed)
    tied = config.get("tie_word_embeddings", False)
    tensors = {
        n: t.detach().to(spec["stored"]).contiguous()
        for n, t in fresh.state_dict().items()
        if not (tied and n == "lm_head.weight")
    }
    save_weights(folder, tensors, spec["shards"])

    # Read back from the directory: what is on disk is what is tested.
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    model.eval()
    tokens = torch.from_numpy(np.random.default_rng(seed + 1).integers(3, 64, LENGTH))[None]
    logits = model(tokens, use_cache=False).logits[0]
    with torch.no_grad():
        parts = [model(t, use_cache=False).logits[0] for t in (tokens[:, :CUT], tokens[:, CUT:])]
    loss = torch.nn.functional.cross_entropy(logits[:-1], tokens[0, 1:])
    loss.backward()
    grads = {n: p.grad.double().ravel() for n, p in model.named_parameters()}
    assert sorted(grads) == sorted(tensors)

    save_file(
        {
            "tokens": tokens[0].to(torch.int32),
            "logits": logits.detach().contiguous(),
            "packed_offsets": torch.tensor([0, CUT, LENGTH], dtype=torch.int32),
            "packed_logits": torch.cat(parts).contiguous(),
        },
        folder / "golden.safetensors",
        metadata={"format": "pt"},
    )
    write_json(
        folder / "golden.json",
        {
            "made_by": "tests/golden/make_model_golden.py",
            "versions": versions(),
            "loss": f9(loss.item()),
            "grad_l2": {n: f9(g.norm()) for n, g in sorted(grads.items())},
            "grad_probe": {
                n: f9((g * torch.cos(torch.arange(g.numel(), dtype=torch.float64))).sum())
                for n, g in sorted(grads.items())
            },
        },
    )
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{folder.relative_to(ROOT)}: {size} bytes, loss {loss:.4f}")


def main():
    torch.manual_seed(0)
    for k, (name, spec) in enumerate(MODELS.items()):
        make(name, spec, 100 + 2 * k)


if __name__ == "__main__":
    main()
