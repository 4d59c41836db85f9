"""The peer of hone-lora on the CPU: PyTorch + PEFT, one LoRA step of babyllama-char105.

    python bench/peer_cpu_lora.py [--data DIR] [--threads 2] [--steps 20] [--mode eager,compile]

fp32, LoRA r=16 on all seven linears, AdamW (fused), clipping at 1.0, micro-batch of 8 x 256 tokens of
tiny Shakespeare, SDPA attention. A step is: batch from a token array, forward, loss, backward, clip,
update, and the loss read back. Prints one JSON line a mode: tokens/s at the median step, step times
(20th, 50th, 80th percentile, ms), the last loss (so that both modes can be seen to train).
Compilation and warm-up steps are not timed. Run it alone: other load on the cores counts.
"""

import argparse
import json
import pathlib
import platform
import sys
import time

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "golden"))
from golden_util import character_ids, data_dir, versions  # noqa: E402

ROWS, LENGTH, RANK = 8, 256, 16
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def build(base):
    torch.manual_seed(0)
    model = LlamaForCausalLM.from_pretrained(base, attn_implementation="sdpa")
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=32, target_modules=LINEARS)
    return get_peft_model(model, config).train()


def batch(ids, step):
    starts = [((step * ROWS + b) * LENGTH * 7) % (len(ids) - LENGTH - 1) for b in range(ROWS)]
    part = np.stack([ids[s : s + LENGTH + 1] for s in starts])
    return torch.from_numpy(part[:, :-1].copy()), torch.from_numpy(part[:, 1:].copy())


def measure(mode, base, ids, warmup, steps):
    model = build(base)
    params = [p for p in model.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=1e-3, weight_decay=0.0, fused=True)

    def loss_of(inputs, labels):
        logits = model(input_ids=inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    run = torch.compile(loss_of) if mode == "compile" else loss_of
    step_ms = []
    for t in range(warmup + steps):
        begin = time.perf_counter()
        loss = run(*batch(ids, t))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        last = loss.item()
        step_ms.append((time.perf_counter() - begin) * 1e3)
    p20, p50, p80 = np.percentile(step_ms[warmup:], [20, 50, 80])
    return {
        "name": f"peer_cpu_lora rows={ROWS} length={LENGTH} rank={RANK} f32 {mode}",
        "tokens_per_s": round(ROWS * LENGTH / p50 * 1e3),
        "step_ms": [round(float(v), 2) for v in (p20, p50, p80)],
        "steps": steps,
        "last_loss": round(last, 4),
    }


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--data")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--warmup", type=int, default=3)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--mode", default="eager,compile")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    base = data_dir(a.data) / "babyllama-char105"
    text = data_dir(a.data) / "tinyshakespeare" / "input.txt"
    ids, _ = character_ids(base / "tok105.vocab", text)
    machine = {"threads": a.threads, "machine": platform.machine(), "versions": versions()}
    for mode in a.mode.split(","):
        result = measure(mode, base, ids, a.warmup, a.steps)
        print(json.dumps({**result, **machine}), flush=True)


if __name__ == "__main__":
    main()
