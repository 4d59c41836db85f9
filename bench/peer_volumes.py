"""The peer of hone-bench-volumes: training steps of FedRef's 3-D U-Net in PyTorch.

    python3 bench/peer_volumes.py [--patch 128] [--batch 1] [--variant captured] [--layout ...]

--variant eager      PyTorch as it is
          compile    forward and loss by torch.compile
          captured   the whole step, optimizer included, captured by hand in one CUDA graph; only
                     values and labels are copied in

The network of runtime/model/unet3d.c (pytorch-3dunet's UNet3D with f_maps [4, 8, 16, 32], layer
order "gcr", 4 groups, no bias in its convolutions); autocast to bf16 over fp32 masters, group norm
too in bf16 (--norm fp32: as autocast has it); channels last unless --layout contiguous;
cudnn.benchmark, TF32, a fused optimizer. The loss is soft Dice (mean over the classes that a patch
has) and cross-entropy, in fp32. Every step copies values and labels from pinned memory, as hone's
does; no step waits for the device. Prints one JSON line with the keys of hone-bench-volumes.
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F
from torch import nn

from peer_clock import GIB, timed, wait

WIDTHS, GROUPS, PLACES = (4, 8, 16, 32), 4, 2


class Step(nn.Module):
    """Group norm, convolution, relu."""

    def __init__(self, inputs, outputs, norm_fp32):
        super().__init__()
        self.norm = nn.GroupNorm(1 if inputs < GROUPS else GROUPS, inputs)
        self.conv = nn.Conv3d(inputs, outputs, 3, padding=1, bias=False)
        self.norm_fp32 = norm_fp32

    def forward(self, x):
        if self.norm_fp32 or not torch.is_autocast_enabled(x.device.type):
            x = self.norm(x)
        else:
            n = self.norm
            with torch.autocast(x.device.type, enabled=False):
                x = x.bfloat16()
                x = F.group_norm(x, n.num_groups, n.weight.bfloat16(), n.bias.bfloat16(), n.eps)
        return F.relu(self.conv(x))


class UNet(nn.Module):
    def __init__(self, classes, norm_fp32):
        super().__init__()
        block = lambda a, b, c: nn.Sequential(Step(a, b, norm_fp32), Step(b, c, norm_fp32))
        below = (1, *WIDTHS)
        self.encoders = nn.ModuleList(block(a, max(b // 2, a), b) for a, b in zip(below, WIDTHS))
        up = list(zip(WIDTHS[::-1], WIDTHS[-2::-1]))
        self.decoders = nn.ModuleList(block(a + b, b, b) for a, b in up)
        self.final = nn.Conv3d(WIDTHS[0], classes, 1)

    def forward(self, x):
        made = []
        for i, encoder in enumerate(self.encoders):
            x = encoder(F.max_pool3d(x, 2) if i else x)
            made.append(x)
        for decoder, skip in zip(self.decoders, made[-2::-1]):
            x = decoder(torch.cat((skip, F.interpolate(x, size=skip.shape[2:])), 1))
        return self.final(x)


def loss_of(logits, labels):
    logits, classes = logits.float(), logits.shape[1]
    cross = F.cross_entropy(logits, labels)
    p = logits.softmax(1).flatten(2)
    t = F.one_hot(labels.flatten(1), classes).transpose(1, 2).float()
    both, all_ = (p * t).sum(2), (p + t).sum(2)
    score = 1 - (2 * both + 1e-5) / (all_ + 1e-5)
    return cross + (score * (t.sum(2) > 0)).mean(1).mean()


def make_places(a, classes):
    """As bench/volumes_step.c: noise, and boxes that are brighter by their class."""
    third = torch.arange(a.patch) * 3 // a.patch
    i, j, k = torch.meshgrid(third, third, third, indexing="ij")
    label = torch.where(i == j, k + 3 * i, 0) % classes
    # int32, as hone's labels travel: int64 would double their copy.
    label = label.expand(a.batch, -1, -1, -1).int().contiguous()
    places = []
    for _ in range(PLACES):
        value = 2 * torch.rand(label.shape) - 1 + label
        pair = (value[:, None], label)
        places.append(tuple(t.pin_memory() for t in pair) if a.cuda else pair)
    return places


def build(a):
    torch.manual_seed(a.seed)
    model = UNet(a.classes, a.norm == "fp32").to(a.device)
    if a.layout == "channels_last":
        model = model.to(memory_format=torch.channels_last_3d)
    groups = [{"params": list(model.parameters())}]
    optimizer = torch.optim.SGD(groups, lr=a.lr, momentum=0.9, fused=a.cuda)

    def forward(value, label):
        if a.layout == "channels_last":
            value = value.contiguous(memory_format=torch.channels_last_3d)
        return loss_of(model(value), label.long())

    run = torch.compile(forward, dynamic=False) if a.variant == "compile" else forward

    def whole(value, label):
        # A cache of casts would outlive what a graph captures.
        cache = a.variant != "captured"
        with torch.autocast(a.kind, torch.bfloat16, enabled=a.dtype == "bf16", cache_enabled=cache):
            loss = run(value, label)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return model, whole


def capture(step, value, label):
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(value, label)
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        loss = step(value, label)
    return graph, loss


def make_step(a, whole, places):
    sent = lambda number: [t.to(a.device, non_blocking=True) for t in places[number % len(places)]]
    first = whole(*sent(0)).item()
    if a.variant != "captured":
        return lambda number: whole(*sent(number)), first
    value, label = sent(0)
    graph, loss = capture(whole, value, label)

    def replayed(number):
        for to, place in zip((value, label), places[number % len(places)]):
            to.copy_(place, non_blocking=True)
        graph.replay()
        return loss

    return replayed, first


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--patch", type=int, default=128)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--classes", type=int, default=4)
    p.add_argument("--variant", choices=["eager", "compile", "captured"], default="eager")
    p.add_argument("--layout", choices=["channels_last", "contiguous"], default="channels_last")
    p.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    p.add_argument("--norm", choices=["bf16", "fp32"], default="bf16")
    p.add_argument("--lr", type=float, default=1e-2)
    p.add_argument("--warmup", type=int, default=5)
    p.add_argument("--seconds", type=float, default=4.0)
    p.add_argument("--steps", type=int, default=3, help="at least so many steps")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cuda")
    a = p.parse_args()
    a.kind = a.device.split(":")[0]
    a.cuda = a.kind == "cuda"
    if a.variant == "captured" and not a.cuda:
        p.error("--variant captured needs a GPU")
    return a


def measure(a):
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    began = time.perf_counter()
    model, whole = build(a)
    step, first = make_step(a, whole, make_places(a, a.classes))
    for number in range(a.warmup):
        step(number)
    wait(a.device)
    ready_s = time.perf_counter() - began
    result = timed(step, a.device, a.seconds, a.steps)
    return {
        "who": a.variant,
        "model": "unet3d-fets",
        "layout": a.layout,
        "norm": a.norm,
        "dtype": a.dtype,
        "batch": a.batch,
        "patch": a.patch,
        "classes": a.classes,
        "optimizer": "sgd",
        "patches_per_s": result["steps"] * a.batch / result["seconds"],
        "peak_gib": torch.cuda.max_memory_allocated() / GIB if a.cuda else 0.0,
        "loss_first": first,
        "trained": sum(p.numel() for p in model.parameters()),
        "ready_s": round(ready_s, 1),
        "device": torch.cuda.get_device_name() if a.cuda else a.device,
        "versions": f"torch {torch.__version__}, cudnn {torch.backends.cudnn.version()}",
    } | result


if __name__ == "__main__":
    print(json.dumps(measure(arguments())))
