"""The peer of hone-full in bench/accuracy.py: a ResNet trained on CIFAR-10 from scratch in PyTorch.

Reads the CIFAR binaries itself and prints one JSON line with the accuracy after the last step. What
is the same as in hone: batches that run on over the ends of epochs; crops out of 4 black pixels
around the image, flips, CIFAR-10's means and deviations; filters from a normal distribution by
their fan out (He et al., 2015), the head as nn.Linear makes it; SGD with Nesterov's momentum,
weight decay on filters and matrices only; a linear warm-up from 0 and a cosine to 0
(runtime/train/schedule.h); label smoothing; bf16 over fp32 masters (autocast), or f32. The random
numbers are PyTorch's.
"""

import argparse
import gzip
import json
import math
import pathlib
import time

import torch
from torch import nn
from torch.nn import functional as F

from peer_models import make

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PAD, RECORD = 4, 1 + 3 * 32 * 32


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--data", required=True, help="CIFAR-10 binaries with commas between, also .gz")
    p.add_argument("--eval-data", required=True)
    p.add_argument("--model", default="resnet18-cifar")
    p.add_argument("--batch-size", type=int, required=True)
    p.add_argument("--steps", type=int, required=True)
    p.add_argument("--warmup-steps", type=int, required=True)
    p.add_argument("--lr", type=float, required=True)
    p.add_argument("--momentum", type=float, required=True)
    p.add_argument("--weight-decay", type=float, required=True)
    p.add_argument("--label-smoothing", type=float, required=True)
    p.add_argument("--dtype", choices=("bf16", "f32"), required=True)
    p.add_argument("--seed", type=int, required=True)
    p.add_argument("--device", required=True)
    return p.parse_args()


def read(files):
    """Pixels [n, 32, 32, 3] and labels [n] of the files, one behind the other."""
    data = b""
    for name in files.split(","):
        raw = pathlib.Path(name).read_bytes()
        data += gzip.decompress(raw) if name.endswith(".gz") else raw
    records = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, RECORD)
    pixels = records[:, 1:].view(-1, 3, 32, 32).permute(0, 2, 3, 1).contiguous()
    return pixels, records[:, 0].long()


def normalised(pixels):
    """[n, 3, 32, 32], channels last."""
    mean = torch.tensor(MEAN, device=pixels.device)
    std = torch.tensor(STD, device=pixels.device)
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def augmented(padded, index):
    """A crop of 32 x 32 of each padded image, every other one flipped."""
    n, device = len(index), padded.device
    top = torch.randint(2 * PAD + 1, (n, 1), device=device)
    left = torch.randint(2 * PAD + 1, (n, 1), device=device)
    flip = torch.rand((n, 1), device=device) < 0.5
    line = torch.arange(32, device=device)
    rows, columns = top + line, left + torch.where(flip, line.flip(0), line)
    return padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def rate(a, step):
    """As hn_schedule_lr."""
    if step < a.warmup_steps:
        return a.lr * step / a.warmup_steps
    share = (step - a.warmup_steps) / (a.steps - a.warmup_steps)
    return a.lr * (1 + math.cos(math.pi * share)) / 2


def build(a):
    model, _ = make(a.model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model.to(a.device, memory_format=torch.channels_last)


def make_optimizer(a, model):
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": a.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=a.lr, momentum=a.momentum, nesterov=True)


def batches(a, n):
    """Image numbers of every step: permutations of all images, one behind the other."""
    epochs = -(-a.steps * a.batch_size // n)
    order = torch.cat([torch.randperm(n) for _ in range(epochs)])
    return order[: a.steps * a.batch_size].to(a.device).view(a.steps, a.batch_size)


def train(a, model, autocast):
    pixels, labels = (t.to(a.device) for t in read(a.data))
    padded = F.pad(pixels, (0, 0, PAD, PAD, PAD, PAD))
    optimizer = make_optimizer(a, model)
    model.train()
    for step, index in enumerate(batches(a, len(labels))):
        for group in optimizer.param_groups:
            group["lr"] = rate(a, step)
        with autocast:
            logits = model(normalised(augmented(padded, index)))
        loss = F.cross_entropy(logits.float(), labels[index], label_smoothing=a.label_smoothing)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


@torch.no_grad()
def evaluate(a, model, autocast):
    """Accuracy and mean loss, without smoothing, of the held-out images."""
    pixels, labels = (t.to(a.device) for t in read(a.eval_data))
    model.eval()
    hits = loss = 0.0
    for x, y in zip(pixels.split(500), labels.split(500)):
        with autocast:
            logits = model(normalised(x)).float()
        hits += (logits.argmax(1) == y).sum().item()
        loss += F.cross_entropy(logits, y, reduction="sum").item()
    return hits / len(labels), loss / len(labels)


def main():
    a = arguments()
    torch.manual_seed(a.seed)
    torch.backends.cudnn.benchmark = True
    began = time.monotonic()
    kind = torch.device(a.device).type
    autocast = torch.autocast(kind, torch.bfloat16, enabled=a.dtype == "bf16")
    model = build(a)
    last = train(a, model, autocast)
    accuracy, loss = evaluate(a, model, autocast)
    result = {"accuracy": accuracy, "eval_loss": loss, "loss_last": last}
    result["parameters"] = sum(p.numel() for p in model.parameters())
    result["seconds"] = time.monotonic() - began
    result["device"] = torch.cuda.get_device_name() if kind == "cuda" else kind
    result["versions"] = f"torch {torch.__version__}"
    print(json.dumps(result))


if __name__ == "__main__":
    main()
