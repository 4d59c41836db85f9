"""Is LoRA training in bf16 as good as PyTorch's? hone-lora beside PEFT on the same batches.

    python3 bench/peer_bf16_spread.py --hone build-cuda/hone-lora [--task babyllama] [--device cuda]
                                      [--seeds 0,1] [--steps 200] [--dtype bf16] [--out FILE.json]

--task babyllama: babyllama-char105 on tiny Shakespeare, the last 10 % held out; 8 x 256 tokens a
step, learning rate 3e-3. --task 1b: the shape of Llama-3.2-1B with random weights, which PyTorch
makes from seed 0 and writes as a model folder that both sides read, with GPT-2's tokenizer (its ids
are below the vocabulary); trained on the test part of WikiText-2, the longer of the two in the data
folder, its validation part held out; 4 x 512 tokens a step, learning rate 2e-4. --task tiny, to
try it on the CPU, is the latter with two narrow layers, GPT-2's vocabulary and little text.

LoRA r=16 alpha=32 on all seven linears, AdamW, constant learning rate, clipping at 1.0. A seed is an
order of the data: dump_batches (beside hone-lora) writes the batches that hone-lora takes with it,
and PyTorch takes them from there. All runs begin from one adapter, hone's own start for seed 0,
which PEFT saves and hone-lora loads. Both sides: base weights and activations in bf16, adapters in
fp32 and rounded to bf16 where they are multiplied (in PyTorch by autocast), attention inside each
sequence of a row, mean loss over the trained labels. --dtype f32 shows that both sides do the same:
the losses of the first steps then agree to five digits.

Passes when for every seed the held-out losses after the last step differ by no more than the spread
of the PyTorch runs among themselves: |hone - torch| <= max(torch) - min(torch); exit code 1 if not.
bench/plot.py draws the curves of --out.
"""

import argparse
import csv
import gzip
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "golden"))
from golden_util import data_dir, lora_a, versions  # noqa: E402

# task: (configuration of a model with random weights or None, rows, length, learning rate)
TASKS = {
    "babyllama": (None, 8, 256, 3e-3),
    "1b": ("llama-3.2-1b.json", 4, 512, 2e-4),
    "tiny": ("tiny.json", 4, 128, 1e-3),
}
TINY_TEXT = 20000  # bytes of each part
RANK, ALPHA, CLIP = 16, 32, 1.0
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SMOOTH = 10  # steps of the moving average of the training loss


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--hone", required=True, type=pathlib.Path, help="hone-lora")
    p.add_argument("--task", choices=TASKS, default="babyllama")
    p.add_argument("--data", help="folder with the task's model, text and tokenizer")
    p.add_argument("--device", default="cuda")
    p.add_argument("--seeds", default="0,1", help="two or more")
    p.add_argument("--steps", type=int, default=200)
    p.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    p.add_argument("--lr", type=float, help="other than the task's")
    p.add_argument("--out", help="JSON file with all losses")
    a = p.parse_args()
    a.hone, a.data = a.hone.resolve(), data_dir(a.data).resolve()
    a.config, a.rows, a.length, lr = TASKS[a.task]
    a.lr = a.lr or lr
    a.torch_dtype = torch.bfloat16 if a.dtype == "bf16" else torch.float32
    a.seeds = [int(s) for s in a.seeds.split(",")]
    if len(set(a.seeds)) < 2:
        p.error("--seeds: a spread needs two orders of the data")
    return a


def data_options(a, seed):
    if a.config:
        data = ["--data", a.model / "test.txt.gz", "--eval-data", a.model / "valid.txt.gz"]
    else:
        data = ["--data", a.data / "tinyshakespeare" / "input.txt", "--eval-split", "0.1"]
    return [
        *("--model", a.model, *data, "--cache-dir", "off"),
        *("--seed", seed, "--batch-size", a.rows, "--seq-len", a.length),
    ]


def random_model(a, folder):
    """A model with random weights, the same for every run here, GPT-2's tokenizer, and the text."""
    tokenizer = a.data / "tokenizers" / "gpt2"
    ids = len(json.loads((tokenizer / "vocab.json").read_text()))
    config = json.loads((ROOT / "bench" / "shapes" / a.config).read_text())
    config["vocab_size"] = max(config["vocab_size"], ids)
    config["bos_token_id"] = config["eos_token_id"] = ids - 1  # <|endoftext|>
    folder.mkdir()
    torch.manual_seed(0)
    with torch.device(a.device):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**config), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))  # as Llama's own, not this version's
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tokenizer / name, folder)
    for name in ("test.txt.gz", "valid.txt.gz"):
        text = gzip.decompress((a.data / "wikitext-2" / name).read_bytes())
        text = text[:TINY_TEXT] if a.task == "tiny" else text
        (folder / name).write_bytes(gzip.compress(text))
    return folder


def program(words):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{words[0]} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")


class Batches:
    """The micro-batches of one part of a dump."""

    def __init__(self, a, path, part):
        kind = torch.device(a.device).type
        self.autocast = torch.autocast(kind, torch.bfloat16, enabled=a.dtype == "bf16")
        with safe_open(path, "pt") as f:
            for name in ("tokens", "labels", "positions", "offsets"):
                setattr(self, name, f.get_tensor(f"{part}.{name}").to(a.device).long())
        self.shape = a.rows, a.length
        self.causal = torch.ones(a.length, a.length, dtype=torch.bool, device=a.device).tril()
        self.places = torch.arange(a.rows * a.length, device=a.device)

    def loss_sum(self, model, m):
        """Sum of -log p over the trained labels (those that are not -100), and their number."""
        sequence = torch.searchsorted(self.offsets[m], self.places, right=True).view(self.shape)
        mask = (sequence[:, :, None] == sequence[:, None, :]) & self.causal
        with self.autocast:
            logits = model(
                input_ids=self.tokens[m].view(self.shape),
                position_ids=self.positions[m].view(self.shape),
                attention_mask=mask[:, None],  # four dimensions are used as they are
                use_cache=False,
            ).logits
        rows, labels = logits.float().flatten(0, 1), self.labels[m]
        total = torch.nn.functional.cross_entropy(rows, labels, reduction="sum")
        return total, (labels != -100).sum()


def build(a):
    model = LlamaForCausalLM.from_pretrained(
        a.model, dtype=a.torch_dtype, attn_implementation="sdpa"
    )
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules=LINEARS)
    model = get_peft_model(model, config)  # adapters in fp32: PEFT's autocast_adapter_dtype
    for name, p in model.named_parameters():
        assert p.dtype == (torch.float32 if p.requires_grad else a.torch_dtype), name
    return model.to(a.device).train()


def adapters(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def set_start(model):
    """hone's adapter before the first step: A from seed 0, B zero."""
    with torch.no_grad():
        for name, p in adapters(model).items():
            module = name.removeprefix("base_model.model.").removesuffix(".default.weight")
            is_a = ".lora_A." in name
            p.copy_(torch.from_numpy(lora_a(0, module, *p.shape)) if is_a else torch.zeros_like(p))


def held_out(model, batches):
    with torch.no_grad():
        parts = [batches.loss_sum(model, m) for m in range(len(batches.tokens))]
    return sum(s.item() for s, _ in parts) / sum(n.item() for _, n in parts)


def train_torch(a, model, dump):
    set_start(model)
    train, held = Batches(a, dump, "train"), Batches(a, dump, "eval")
    params = list(adapters(model).values())
    opt = torch.optim.AdamW(params, lr=a.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses, before = [], held_out(model, held)
    for m in range(a.steps):
        loss = torch.div(*train.loss_sum(model, m))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, CLIP)
        opt.step()
        opt.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    after = held_out(model, held)
    return {"before": before, "after": after, "loss": [v.item() for v in losses]}


def train_hone(a, seed, start, out):
    program(
        [a.hone, "train", *data_options(a, seed), "--adapter", start, "--out", out]
        + ["--dtype", a.dtype, "--device", a.device, "--steps", a.steps, "--lr", a.lr]
        + ["--schedule", "constant", "--warmup-steps", 0, "--max-grad-norm", CLIP]
        + ["--optimizer", "adamw", "--weight-decay", 0, "--result", "last", "--keep", 1]
    )
    with open(out / "metrics.csv") as f:
        rows = list(csv.DictReader(f))
    column = lambda name: [float(r[name]) for r in rows if r[name]]
    losses, held = column("loss"), column("eval_loss")
    assert len(losses) == a.steps and len(held) == 2, f"{out}/metrics.csv is not of this run"
    return {"before": held[0], "after": held[-1], "loss": losses}


def curve_gap(x, y):
    """Largest difference of two training losses, smoothed."""
    w = min(SMOOTH, len(x["loss"]))
    return np.abs(np.convolve(np.subtract(x["loss"], y["loss"]), np.ones(w) / w, "valid")).max()


def report(a, runs):
    """Prints the table; the verdict."""
    after = [runs["torch"][s]["after"] for s in a.seeds]
    spread, gaps = max(after) - min(after), []
    print(f"held-out loss and largest difference of the training loss (means of {SMOOTH} steps)\n")
    print("| seed | torch before | hone before | torch after | hone after | hone - torch | curve |")
    print("|---|---|---|---|---|---|---|")
    for s in a.seeds:
        t, h = runs["torch"][s], runs["hone"][s]
        gaps.append(h["after"] - t["after"])
        cells = [f"{v:.5f}" for v in (t["before"], h["before"], t["after"], h["after"])]
        print("|", s, "|", " | ".join(cells), f"| {gaps[-1]:+.5f} | {curve_gap(t, h):.5f} |")
    curves = max(curve_gap(runs["torch"][a.seeds[0]], runs["torch"][s]) for s in a.seeds[1:])
    print(f"| spread of torch | | | {spread:.5f} | | | {curves:.5f} |")
    within = all(abs(g) <= spread for g in gaps)  # a NaN is not within
    print(f"\nhone is {'within' if within else 'OUTSIDE'} the spread")
    return {"spread": spread, "hone_minus_torch": gaps, "within": within}


def main():
    a = arguments()
    began = time.time()
    runs = {"torch": {}, "hone": {}}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if a.config:
            a.model = random_model(a, folder / "model")
        else:
            a.model = a.data / "babyllama-char105"
        model = build(a)
        set_start(model)
        model.save_pretrained(folder / "start", save_embedding_layers=False)
        for seed in a.seeds:
            dump = folder / f"batches-{seed}.safetensors"
            program([a.hone.parent / "dump_batches", a.steps, dump, *data_options(a, seed)])
            runs["torch"][seed] = train_torch(a, model, dump)
            runs["hone"][seed] = train_hone(a, seed, folder / "start", folder / f"hone-{seed}")
            print(f"seed {seed}: {time.time() - began:.0f} s", file=sys.stderr, flush=True)
    verdict = report(a, runs)
    if a.out:
        cuda = a.device.startswith("cuda")
        machine = torch.cuda.get_device_name(a.device) if cuda else "cpu"
        head = {"task": a.task, "device": machine, "versions": versions(), "dtype": a.dtype}
        head |= {"steps": a.steps, "batch": a.rows, "length": a.length, "lr": a.lr}
        pathlib.Path(a.out).write_text(json.dumps({**head, **verdict, **runs}) + "\n")
    return 0 if verdict["within"] else 1


if __name__ == "__main__":
    sys.exit(main())
