"""The peer of hone-bench-vision: training steps of an image classifier in PyTorch.

    python3 bench/peer_vision.py --model resnet18-cifar --batch 512 --variant compile

--variant eager            PyTorch as it is
          compile          forward and backward by torch.compile
          reduce-overhead  the same in its mode that captures CUDA graphs
          captured         the whole step, optimizer included, captured by hand in one CUDA graph;
                           only the numbers of the images are copied in
          compile-captured the compiled step captured so

Channels last; autocast to bf16 over fp32 masters (--pure-bf16: weights in bf16, no autocast);
cudnn.benchmark, TF32, fused optimizers. The images are bytes that lie in the GPU's memory, with
their labels; crop, flip and normalisation are vectorised operations inside the step (and inside
what is compiled or captured). Matrices and filters take weight decay, as in hone. The loss is the
mean cross-entropy. Under torchrun it is DistributedDataParallel, --batch a GPU, and images_per_s is of
all GPUs together; whole steps are not captured there. No step waits for the device. Prints one JSON line, with the keys of
hone-bench-vision; peak_gib is what was allocated at most, reserved_gib what the allocator held,
used_gib what went from the device's free memory.
"""

import argparse
import json
import time

import torch
from torch import nn

from peer_clock import GIB, data_parallel, join, leave, timed, wait
from peer_models import MODELS, make

VARIANTS = ["eager", "compile", "reduce-overhead", "captured", "compile-captured"]
PAD = 4  # black pixels around an image that is cropped
CLASSES, BANDS, STRAY = 10, 4, 4  # of the made-up images: bench/vision_step.c
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
EPOCHS = 8  # of image numbers in host memory, used in turn


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--model", required=True, choices=MODELS)
    p.add_argument("--variant", choices=VARIANTS, default="eager")
    p.add_argument("--pure-bf16", action="store_true")
    p.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--images", type=int, default=10000)
    p.add_argument("--augment", choices=["none", "crop-flip"], default="none")
    p.add_argument("--optimizer", choices=["sgd", "adamw"], default="sgd")
    p.add_argument("--lr", type=float, default=1e-2)
    p.add_argument("--weight-decay", type=float, default=5e-4)
    p.add_argument("--warmup", type=int, default=11, help="steps before the clock")
    p.add_argument("--seconds", type=float, default=6.0)
    p.add_argument("--steps", type=int, default=3, help="at least so many steps")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cuda")
    a = p.parse_args()
    if a.batch > a.images:
        p.error("--batch: more than there are --images")
    if a.pure_bf16 and a.dtype != "bf16":
        p.error("--pure-bf16 does not go with --dtype f32")
    if "captured" in a.variant and not a.device.startswith("cuda"):
        p.error(f"--variant {a.variant} needs a GPU")
    return a


def make_images(a, image, channels):
    """As those of bench/vision_step.c: noise, bright bands that tell the class, stray labels."""
    pixels = torch.randint(192, (a.images, image, image, channels), dtype=torch.uint8)
    classes = torch.randint(CLASSES, (a.images,))
    band = torch.arange(image) * BANDS // image
    bright = 64 * (classes[:, None] >> band & 1)
    pixels += bright.to(torch.uint8)[:, :, None, None]
    stray = torch.randint(STRAY, (a.images,)) == 0
    labels = torch.where(stray, torch.randint(CLASSES, (a.images,)), classes)
    return pixels, labels


class Step(nn.Module):
    """The loss of a batch, from the numbers of its images."""

    def __init__(self, a):
        super().__init__()
        image, channels = MODELS[a.model][:2]
        pixels, labels = make_images(a, image, channels)
        self.augment, self.image = a.augment == "crop-flip", image
        if self.augment:
            pixels = nn.functional.pad(pixels, (0, 0, PAD, PAD, PAD, PAD))
        mean, std = torch.tensor(MEAN[:channels]), torch.tensor(STD[:channels])
        self.register_buffer("pixels", pixels)
        self.register_buffer("labels", labels)
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", mean / std)
        self.register_buffer("line", torch.arange(image))
        self.register_buffer("mirrored", torch.arange(image).flip(0))
        self.model, self.source = make(a.model)
        self.pure_bf16 = a.pure_bf16

    def images(self, index):
        if self.augment:
            n, device = index.shape[0], index.device
            top = torch.randint(2 * PAD + 1, (n, 1), device=device)
            left = torch.randint(2 * PAD + 1, (n, 1), device=device)
            flip = torch.rand((n, 1), device=device) < 0.5
            rows = top + self.line
            columns = left + torch.where(flip, self.mirrored, self.line)
            x = self.pixels[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        else:
            x = self.pixels[index]
        x = x.float() * self.scale - self.shift
        return x.permute(0, 3, 1, 2)  # channels last

    def forward(self, index):
        x = self.images(index)
        logits = self.model(x.bfloat16() if self.pure_bf16 else x)
        return nn.functional.cross_entropy(logits.float(), self.labels[index])


def build(a):
    torch.manual_seed(a.seed)
    step = Step(a)
    if a.pure_bf16:
        step.model.bfloat16()
    step.to(a.device)
    step.model.to(memory_format=torch.channels_last)
    for images in (step.pixels, step.labels):  # not to be copied into the graphs of reduce-overhead
        torch._dynamo.mark_static_address(images)
    return step.train()


def make_optimizer(a, model):
    decayed, others = [], []
    for name, p in model.named_parameters():
        matrix = p.ndim > 1 and name not in ("cls_token", "pos_embed")
        (decayed if matrix else others).append(p)
    groups = [{"params": decayed, "weight_decay": a.weight_decay}]
    groups += [{"params": others, "weight_decay": 0.0}]
    if a.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=a.lr, momentum=0.9, fused=True)
    return torch.optim.AdamW(groups, lr=a.lr, fused=True, capturable="captured" in a.variant)


def image_numbers(a):
    """Of each batch [batch], pinned where there is a GPU: permutations of the images, one after
    the other."""
    order = torch.cat([torch.randperm(a.images) for _ in range(EPOCHS)])
    order = order[: len(order) // a.batch * a.batch].view(-1, a.batch)
    return (order.pin_memory() if a.device.startswith("cuda") else order).unbind()


def capture(step, index):
    """The whole step as a CUDA graph."""
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(index)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.reset_peak_memory_stats()  # what runs in a graph is allocated while it is captured
    with torch.cuda.graph(graph):
        loss = step(index)
    return graph, loss


def make_step(a, module, optimizer, numbers):
    """A function of the number of a step that gives its loss, and the loss of the first one. On a
    GPU peak memory counts from behind the first step: later ones search for no algorithms."""
    cuda, captured = a.device.startswith("cuda"), "captured" in a.variant
    mode = "reduce-overhead" if a.variant == "reduce-overhead" else "default"
    eager = a.variant in ("eager", "captured")
    run = module if eager else torch.compile(module, dynamic=False, mode=mode)
    kind = a.device.split(":")[0]
    autocast = a.dtype == "bf16" and not a.pure_bf16

    def whole(index):
        if a.variant == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        # A cache of casts would outlive what a graph captures.
        with torch.autocast(kind, torch.bfloat16, enabled=autocast, cache_enabled=not captured):
            loss = run(index)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def copied(number):
        return whole(numbers[number % len(numbers)].to(a.device, non_blocking=True))

    first = copied(0).item()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    if not captured:
        return copied, first
    index = numbers[0].to(a.device)
    graph, loss = capture(whole, index)

    def replayed(number):
        index.copy_(numbers[number % len(numbers)], non_blocking=True)
        graph.replay()
        return loss

    return replayed, first


def notes():
    skipped = torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]
    return f"{skipped} CUDA graphs were skipped" if skipped else ""


def measure(a):
    cuda = a.device.startswith("cuda")
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")  # TF32 in what is left in fp32; cuDNN has it anyway
    rank, ranks, a.device = join(a.device)
    if ranks > 1 and "captured" in a.variant:
        raise SystemExit(f"--variant {a.variant}: of one GPU")
    free = torch.cuda.mem_get_info()[0] if cuda else 0
    began = time.perf_counter()
    module = build(a)
    module.model = data_parallel(module.model)
    torch.manual_seed(a.seed + 1 + rank)
    optimizer = make_optimizer(a, module.model)
    step, first = make_step(a, module, optimizer, image_numbers(a))
    ready_s = time.perf_counter() - began
    for number in range(1, max(a.warmup, 3)):
        step(number)
    wait(a.device)
    result = timed(step, a.device, a.seconds, a.steps)
    leave()
    if rank > 0:
        return None
    return {
        "who": a.variant + ", weights in bf16" * a.pure_bf16,
        "model": a.model,
        "source": module.source,
        "ranks": ranks,
        "dtype": a.dtype,
        "batch": a.batch,
        "images": a.images,
        "augment": a.augment,
        "optimizer": a.optimizer,
        "images_per_s": ranks * result["steps"] * a.batch / result["seconds"],
        "peak_gib": torch.cuda.max_memory_allocated() / GIB if cuda else 0.0,
        "reserved_gib": torch.cuda.max_memory_reserved() / GIB if cuda else 0.0,
        "used_gib": (free - torch.cuda.mem_get_info()[0]) / GIB if cuda else 0.0,
        "loss_first": first,
        "trained": sum(p.numel() for p in module.model.parameters()),
        "compile_s": round(ready_s, 1),
        "executor": a.variant,
        "notes": notes(),
        "device": torch.cuda.get_device_name() if cuda else a.device,
        "versions": f"torch {torch.__version__}, cudnn {torch.backends.cudnn.version()}",
    } | result


if __name__ == "__main__":
    line = measure(arguments())
    if line is not None:
        print(json.dumps(line))
