"""Reference training runs of babyllama-char105 on tiny Shakespeare in PyTorch + PEFT.

    python make_lora_golden.py [DATA]      DATA: folder with babyllama-char105/, tinyshakespeare/

Writes into tests/golden/

  lora_babyllama_50.json     LoRA r=16 alpha=32 on all seven linears, AdamW, constant lr
  lora_babyllama_accum.json  the same with two micro-batches a step, rsLoRA, linear schedule with
                             warm-up, weight decay
  dora_babyllama_50.json     DoRA r=16 alpha=32 on all seven linears, weight decay on all that is
                             trained, magnitudes among it
  full_babyllama_sgd.json    every weight trained, SGD with Nesterov momentum
  full_babyllama_adamw.json  every weight trained, AdamW with decay on everything, cosine schedule

What another implementation needs to repeat a run; everything is fp32 on the CPU:

Tokens    tok105.vocab, one character a token: space is U+2581, newline is <unk> 0, no BOS, no
          leading space mark. The first int(0.9 * bytes) bytes are for training: n tokens.
Batches   micro-batch m (0, 1, ...), row b (0 .. 7) starts at token
          start = ((m * 8 + b) * 128 * 7) mod (n - 129);
          inputs are tokens start .. start+127, labels start+1 .. start+128 (shifted already).
          Optimizer step t uses micro-batches t*accumulation .. t*accumulation + accumulation-1.
Loss      mean of -log p over all tokens of the optimizer step. Gradient norm: 2-norm over all
          trained parameters before clipping; clipped by min(1, max_norm / (norm + 1e-6)).
DoRA      y = m / ||W + s B A|| (Wx + s B A x) for each output, norms held constant in backward,
          m = ||W|| at the start.
LoRA      y = Wx + s B A x, no dropout, s = alpha / r, or alpha / sqrt(r) with rsLoRA. B = 0. A is
          hone's own start (golden_util.lora_a): module path P = "model.layers.0.self_attn.q_proj",
            word = hn_rng_u32(hn_rng_make(seed, 0, hn_hash_name(P + ".lora_A")), row, col)
            A[row, col] = (2 (word >> 8) 2^-24 - 1) / sqrt(in)
Full      trains 47 tensors: the embedding is tied to the head and counts once.
Schedule  Transformers' get_*_schedule_with_warmup; `lr` lists what each step used (a linear
          warm-up starts with 0).

The files hold loss, grad_norm and lr of each step, held-out losses before and after (16 rows of 128
tokens, row i starts at i * 6000 of the held-out part), and for some trained tensors after the last
step their sum and 2-norm; `first_a` is a corner of A at the start. `float64_gap` is the largest difference of a loss to the same run in
double precision: how much of the agreement rounding leaves open.
"""

import sys

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    LlamaForCausalLM,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from golden_util import GOLDEN, character_ids, data_dir, f9, f9s, lora_a, versions, write_json

ROWS, LENGTH = 8, 128
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BASE = {
    "model": "babyllama-char105",
    "text": "tinyshakespeare",
    "rows": ROWS,
    "length": LENGTH,
    "accumulation": 1,
    "clip_norm": 1.0,
    "schedule": "constant",
    "warmup": 0,
}
ADAMW = {"optimizer": "adamw", "betas": [0.9, 0.999], "eps": 1e-8}
LORA = {"method": "lora", "rank": 16, "alpha": 32, "targets": LINEARS, "seed": 1234}

RUNS = {
    "lora_babyllama_50": {
        **LORA,
        "rslora": False,
        **ADAMW,
        "lr": 1e-3,
        "weight_decay": 0.0,
        "steps": 50,
    },
    "lora_babyllama_accum": {
        **LORA,
        "rslora": True,
        **ADAMW,
        "lr": 1e-3,
        "weight_decay": 0.01,
        "steps": 50,
        "accumulation": 2,
        "schedule": "linear",
        "warmup": 10,
    },
    "dora_babyllama_50": {
        **LORA,
        "dora": True,
        "rslora": False,
        **ADAMW,
        "lr": 1e-3,
        "weight_decay": 0.01,
        "steps": 50,
    },
    "full_babyllama_sgd": {
        "method": "full",
        "optimizer": "sgd",
        "momentum": 0.9,
        "nesterov": True,
        "lr": 0.05,
        "weight_decay": 0.0,
        "steps": 10,
    },
    "full_babyllama_adamw": {
        "method": "full",
        **ADAMW,
        "lr": 5e-4,
        "weight_decay": 0.1,
        "steps": 10,
        "schedule": "cosine",
        "warmup": 2,
    },
}

# Adapted linears whose first elements of A (2 rows x 4 columns) are listed, and their widths.
FIRST_A = [
    ("model.layers.0.self_attn.q_proj.lora_A", 128),
    ("model.layers.4.mlp.down_proj.lora_A", 352),
]


def build_model(path, run, dtype):
    model = LlamaForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager")
    if run["method"] == "full":
        return model.train()
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=run["rank"],
        lora_alpha=run["alpha"],
        lora_dropout=0.0,
        target_modules=run["targets"],
        use_rslora=run["rslora"],
        use_dora=run.get("dora", False),
    )
    model = get_peft_model(model, config)
    for name, p in model.named_parameters():
        if ".lora_A." in name:
            module = name.removeprefix("base_model.model.").removesuffix(".default.weight")
            a = lora_a(run["seed"], module, *p.shape)
            p.data.copy_(torch.from_numpy(a))
        elif ".lora_B." in name:
            assert not p.data.any()
    return model.train()


def trained(model):
    """(short name, parameter): model.layers.0.self_attn.q_proj.lora_A, model.norm.weight, ..."""
    strip = lambda n: n.removeprefix("base_model.model.").replace(".default.weight", "")
    return [(strip(n), p) for n, p in model.named_parameters() if p.requires_grad]


def rows_at(ids, starts):
    part = np.stack([ids[s : s + LENGTH + 1] for s in starts])
    return torch.from_numpy(part[:, :-1].copy()), torch.from_numpy(part[:, 1:].copy())


def micro_batch(ids, m):
    wrap = len(ids) - LENGTH - 1
    return rows_at(ids, [((m * ROWS + b) * LENGTH * 7) % wrap for b in range(ROWS)])


def mean_loss(model, inputs, labels):
    logits = model(input_ids=inputs, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


def make_schedule(opt, run):
    if run["schedule"] == "constant":
        return torch.optim.lr_scheduler.LambdaLR(opt, lambda s: 1.0)
    make = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}
    return make[run["schedule"]](opt, run["warmup"], run["steps"])


def train(path, run, train_ids, held_ids, dtype):
    model = build_model(path, run, dtype)
    names, params = zip(*trained(model))
    if run["optimizer"] == "adamw":
        opt = torch.optim.AdamW(
            params,
            lr=run["lr"],
            betas=run["betas"],
            eps=run["eps"],
            weight_decay=run["weight_decay"],
            foreach=False,
        )
    else:
        opt = torch.optim.SGD(
            params,
            lr=run["lr"],
            momentum=run["momentum"],
            nesterov=run["nesterov"],
            weight_decay=run["weight_decay"],
            foreach=False,
        )
    schedule = make_schedule(opt, run)
    held = rows_at(held_ids, range(0, 16 * 6000, 6000))
    out = {"trained": len(names), "elements": sum(p.numel() for p in params)}
    with torch.no_grad():
        out["held_out_before"] = f9(mean_loss(model, *held))
    losses, norms, rates = [], [], []
    for t in range(run["steps"]):
        loss = 0.0
        for k in range(run["accumulation"]):
            part = mean_loss(model, *micro_batch(train_ids, t * run["accumulation"] + k))
            (part / run["accumulation"]).backward()
            loss += part.item() / run["accumulation"]
        losses.append(loss)
        norms.append(torch.nn.utils.clip_grad_norm_(params, run["clip_norm"], foreach=False).item())
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        schedule.step()
        opt.zero_grad(set_to_none=True)
    with torch.no_grad():
        out["held_out_after"] = f9(mean_loss(model, *held))
    out.update(loss=f9s(losses), grad_norm=f9s(norms), lr=f9s(rates))
    out["after"] = {
        n: {"sum": f9(p.detach().double().sum()), "l2": f9(p.detach().double().norm())}
        for n, p in zip(names, params)
        if n.startswith(("model.layers.0.", "model.layers.4.mlp", "model.embed", "model.norm"))
    }
    return out


def main():
    data = data_dir(sys.argv[1] if len(sys.argv) > 1 else None)
    base = data / "babyllama-char105"
    text = data / "tinyshakespeare" / "input.txt"
    train_ids, held_ids = character_ids(base / "tok105.vocab", text)
    torch.set_num_threads(2)
    for name, settings in RUNS.items():
        run = {**BASE, **settings}
        out = train(base, run, train_ids, held_ids, torch.float32)
        exact = train(base, run, train_ids, held_ids, torch.float64)
        gap = np.abs(np.array(out["loss"]) - np.array(exact["loss"])).max()
        head = {
            "made_by": "tests/golden/make_lora_golden.py",
            "versions": versions(),
            "settings": run,
            "train_tokens": len(train_ids),
            "first_tokens": [int(i) for i in train_ids[:16]],
            "float64_gap": f9(gap),
        }
        if run["method"] == "lora":
            head["first_a"] = {n: f9s(lora_a(run["seed"], n, 2, w)[:, :4]) for n, w in FIRST_A}
        write_json(GOLDEN / f"{name}.json", {**head, **out})
        print(f"  held out {out['held_out_before']} -> {out['held_out_after']}, gap {gap:.2e}")


if __name__ == "__main__":
    main()
