"""The peer of hone-bench-fewshot: few-shot fine-tuning of a vision transformer in PyTorch.

    python3 bench/peer_trajectories.py --variant captured

--variant eager             PyTorch as it is
          compile           forward and backward by torch.compile
          captured          a step, optimizer included, captured by hand in one CUDA graph
          compile-captured  the compiled step captured so

The recipe of hone's runtime/train/few_shot_tune.h: prototypes of the clean support images, their
augmented views as queries (flip, brightness, saturation, contrast, translation, with probability
0.9 a step), 10 times the cosine, mean cross-entropy, Adam without weight decay over the biases of
the attention's qkv, restart for every episode. One episode after the other, as scripts of P>M>F do
it; its 2 N views are one batch. Every fifth step the biases are copied to pinned memory, without
waiting. bf16 autocast over fp32 masters, TF32, fused Adam; images are bytes in the GPU's memory and
are resized inside the step. The weights that stay need no gradient. Prints one JSON line, with the
keys of hone-bench-fewshot; episodes_per_s is over whole episodes.
"""

import argparse
import json
import time

import torch
from torch import nn
from torch.nn import functional as F

from peer_clock import GIB, wait
from peer_models import MODELS, make

VARIANTS = ["eager", "compile", "captured", "compile-captured"]
CLASSES, BANDS = 64, 6  # of the made-up images: bench/fewshot_step.c
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRANSLATION = 1 / 8


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    models = [name for name in MODELS if name.startswith("vit")]
    p.add_argument("--model", default="vit_tiny_patch16_224", choices=models)
    p.add_argument("--variant", choices=VARIANTS, default="eager")
    p.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    p.add_argument("--way", type=int, default=5)
    p.add_argument("--shot", type=int, default=5)
    p.add_argument("--side", type=int, default=32, help="of the images in memory")
    p.add_argument("--images", type=int, default=20000)
    p.add_argument("--k", type=int, default=50, help="steps of an episode")
    p.add_argument("--knot-every", type=int, default=5)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--augment", type=float, default=0.9)
    p.add_argument("--warmup", type=int, default=2, help="episodes before the clock")
    p.add_argument("--seconds", type=float, default=6.0)
    p.add_argument("--episodes", type=int, default=3, help="at least so many")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cuda")
    a = p.parse_args()
    if a.k < 1 or a.knot_every < 1 or a.k % a.knot_every:
        p.error("--knot-every: must divide --k")
    if a.images < CLASSES * a.shot:
        p.error(f"--images: at least {CLASSES * a.shot}")
    if "captured" in a.variant and not a.device.startswith("cuda"):
        p.error(f"--variant {a.variant} needs a GPU")
    return a


def make_images(a):
    """Noise, brighter in those of six bands whose bit is set in the class, i mod CLASSES."""
    pixels = torch.randint(192, (a.images, a.side, a.side, 3), dtype=torch.uint8)
    classes = torch.arange(a.images) % CLASSES
    band = torch.arange(a.side) * BANDS // a.side
    bright = 63 * (classes[:, None] >> band & 1)
    return pixels + bright.to(torch.uint8)[:, :, None, None]


def augmented(x, probability):
    """DiffAugment's color and translation on normalised images, and a flip of the batch. Nothing
    waits for the device: a step without augmentation makes it and does not take it."""
    n, _, side, _ = x.shape
    u = torch.rand(2, device=x.device)
    y = torch.where(u[1] < 0.5, x.flip(3), x)

    def draw():
        return torch.rand(n, 1, 1, 1, device=x.device)

    y = y + (draw() - 0.5)
    mean = y.mean(1, keepdim=True)
    y = (y - mean) * (2 * draw()) + mean
    mean = y.mean((1, 2, 3), keepdim=True)
    y = (y - mean) * (draw() + 0.5) + mean
    t = int(side * TRANSLATION + 0.5)
    move = torch.randint(-t, t + 1, (2, n, 1), device=x.device)
    line = torch.arange(side, device=x.device)
    rows = (line + move[0] + 1).clamp(0, side + 1)
    columns = (line + move[1] + 1).clamp(0, side + 1)
    padded = F.pad(y, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    number = torch.arange(n, device=x.device)[:, None, None]
    y = padded[number, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return torch.where(u[0] < probability, y, x)


class Step(nn.Module):
    """The loss of one episode's step, from the numbers of its support images."""

    def __init__(self, a):
        super().__init__()
        self.a, (self.side, channels) = a, MODELS[a.model][:2]
        self.model, self.source = make(a.model)
        self.model.head = nn.Identity()
        self.register_buffer("pixels", make_images(a))
        self.register_buffer("labels", torch.arange(a.way).repeat_interleave(a.shot))
        self.register_buffer("scale", 1 / (255 * torch.tensor(STD[:channels])))
        self.register_buffer("shift", torch.tensor(MEAN[:channels]) / torch.tensor(STD[:channels]))

    def images(self, index):
        x = (self.pixels[index].float() * self.scale - self.shift).permute(0, 3, 1, 2)
        if x.shape[-1] == self.side:
            return x
        return F.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False)

    def forward(self, index):
        clean = self.images(index)
        f = self.model(torch.cat([clean, augmented(clean, self.a.augment)])).float()
        support, query = f.chunk(2)
        prototypes = support.view(self.a.way, self.a.shot, -1).mean(1)
        cosine = F.cosine_similarity(query[:, None], prototypes[None], dim=-1)
        return F.cross_entropy(10 * cosine, self.labels)


class Tuner:
    """Episodes one after the other."""

    def __init__(self, a):
        self.a, cuda = a, a.device.startswith("cuda")
        torch.manual_seed(a.seed)
        self.step = Step(a).to(a.device)
        self.step.requires_grad_(False)
        named = self.step.model.named_parameters()
        self.trained = [p.requires_grad_() for n, p in named if n.endswith("qkv.bias")]
        self.start = [p.detach().clone() for p in self.trained]
        self.optimizer = torch.optim.Adam(self.trained, lr=a.lr, fused=cuda,
                                          capturable="captured" in a.variant)
        compiled = "compile" in a.variant
        self.run = torch.compile(self.step, dynamic=False) if compiled else self.step
        self.index = torch.zeros(a.way * a.shot, dtype=torch.long, device=a.device)
        numbers = sum(p.numel() for p in self.trained)
        self.knots = torch.empty(a.k // a.knot_every + 1, numbers, pin_memory=cuda)
        self.graph = None
        self.load(0)
        for _ in range(3):
            self.whole()
        if "captured" in a.variant:
            self.capture()

    def load(self, episode):
        """The images of an episode, values and moments as they were."""
        a = self.a
        classes = (episode * a.way + torch.arange(a.way)) % CLASSES
        number = (episode * a.shot + torch.arange(a.shot)) % (a.images // CLASSES)
        index = (number[None] * CLASSES + classes[:, None]).flatten()
        if a.device.startswith("cuda"):
            index = index.pin_memory()
        self.index.copy_(index, non_blocking=True)
        with torch.no_grad():
            torch._foreach_copy_(self.trained, self.start)
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def whole(self):
        kind, bf16 = self.a.device.split(":")[0], self.a.dtype == "bf16"
        cache = "captured" not in self.a.variant  # a cache of casts would outlive what is captured
        with torch.autocast(kind, torch.bfloat16, enabled=bf16, cache_enabled=cache):
            loss = self.run(self.index)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def capture(self):
        self.graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.whole()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(self.graph):
            self.loss = self.whole()

    def knot(self, k):
        theta = torch.cat([p.detach() for p in self.trained])
        self.knots[k].copy_(theta, non_blocking=True)

    def episode(self, number):
        """First and last loss of the steps, on the device."""
        self.load(number)
        self.knot(0)
        first = None
        for k in range(1, self.a.k + 1):
            if self.graph is None:
                loss = self.whole()
            else:
                self.graph.replay()
                loss = self.loss
            first = loss.clone() if first is None else first
            if k % self.a.knot_every == 0:
                self.knot(k // self.a.knot_every)
        return first, loss


def main():
    a = arguments()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    cuda = a.device.startswith("cuda")
    tuner = Tuner(a)
    for number in range(a.warmup):
        tuner.episode(number)
    wait(a.device)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    begin, done, times = time.perf_counter(), 0, []
    while done < a.episodes or time.perf_counter() - begin < a.seconds:
        start = time.perf_counter()
        first, last = tuner.episode(a.warmup + done)
        wait(a.device)  # the knots are read: a trajectory is done
        times.append(1e3 * (time.perf_counter() - start))
        done += 1
    elapsed = time.perf_counter() - begin
    times.sort()
    views = 2 * a.k * a.way * a.shot
    print(json.dumps({
        "who": "pytorch", "variant": a.variant, "model": a.model, "source": tuner.step.source,
        "dtype": a.dtype, "set": "qv and key", "trained": tuner.knots.shape[1], "at_once": 1,
        "way": a.way, "shot": a.shot, "k": a.k, "episodes_per_s": done / elapsed,
        "steps_per_s": done * a.k / elapsed, "images_per_s": done * views / elapsed,
        "groups": done, "group_ms": [times[int(q * (done - 1) + 0.5)] for q in (0.2, 0.5, 0.8)],
        "peak_gib": torch.cuda.max_memory_allocated() / GIB if cuda else 0.0,
        "loss_first": first.item(), "loss_last": last.item(),
        "device": torch.cuda.get_device_name() if cuda else "cpu", "torch": torch.__version__,
    }))


if __name__ == "__main__":
    main()
