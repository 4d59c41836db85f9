"""The peers of client_cnn: local training of many small clients in PyTorch.

    python3 bench/peer_clients.py [--seconds 3] [--filter REGEX] [--device cuda]

loop      clients one after the other: the model gets the start values, then plain SGD steps
captured  the same with a client's step captured in a CUDA graph; only image numbers are copied in
vmap      one step of all clients at a time: torch.func.vmap of the gradient over stacked values

of the CNN of MNIST with 3 x 3 filters, 8 and 16, 64 hidden units, and of the CNN of 1.17 million
(5 x 5, 32 and 64, 1024 hidden units, 62 classes), batch 32, 20 steps a client. fp32 is fp32: no
TF32; bf16 is autocast. Images are bytes in the device's memory, taken and normalised inside the
step; no step waits for the device; cudnn.benchmark. One JSON line a measurement: client-steps/s
over whole rounds of all clients, start values in, values out. hone's side is `hone-bench --filter
^client_cnn`, clients steps / us_p50, on the same machine right before or after.
"""

import argparse
import json
import re
import time

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional as F

from peer_clock import GIB, wait

IMAGES, SIDE, MEAN, STD, LR = 10000, 28, 0.1307, 0.3081, 0.01

# model: filter size, filters, hidden units, classes
MODELS = {"mnist-small": (3, (8, 16), 64, 10), "femnist-1.17m": (5, (32, 64), 1024, 62)}

# variant, model, dtype, clients
RUNS = [
    ("loop", "mnist-small", "f32", 100),
    ("loop", "mnist-small", "bf16", 100),
    ("captured", "mnist-small", "f32", 100),
    ("vmap", "mnist-small", "f32", 100),
    ("vmap", "mnist-small", "bf16", 100),
    ("loop", "femnist-1.17m", "f32", 100),
    ("loop", "femnist-1.17m", "bf16", 100),
    ("captured", "femnist-1.17m", "f32", 100),
    ("captured", "femnist-1.17m", "bf16", 100),
]


class Cnn(nn.Module):
    def __init__(self, model):
        super().__init__()
        k, (a, b), hidden, classes = MODELS[model]
        side = ((SIDE - k + 1) // 2 - k + 1) // 2
        self.conv1, self.conv2 = nn.Conv2d(1, a, k), nn.Conv2d(a, b, k)
        self.fc1 = nn.Linear(side * side * b, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Data:
    def __init__(self, a, classes):
        shape = (IMAGES, 1, SIDE, SIDE)
        self.pixels = torch.randint(256, shape, dtype=torch.uint8, device=a.device)
        self.labels = torch.randint(classes, (IMAGES,), device=a.device)

    def batch(self, index):
        x = self.pixels[index].float() * (1 / (255 * STD)) - MEAN / STD
        return x, self.labels[index]


def autocast(a, dtype, cache=True):
    kind = a.device.split(":")[0]
    return torch.autocast(kind, torch.bfloat16, enabled=dtype == "bf16", cache_enabled=cache)


def one_by_one(a, model, dtype, rows, captured):
    """A round: a function without arguments that gives the last loss."""
    net = Cnn(model).to(a.device)
    data = Data(a, MODELS[model][3])
    trained = list(net.parameters())
    start = [p.detach().clone() for p in trained]
    values = [[torch.empty_like(p) for p in start] for _ in rows]
    optimizer = torch.optim.SGD(trained, lr=LR, foreach=True)

    def step(index):
        x, y = data.batch(index)
        with autocast(a, dtype, cache=not captured):
            loss = F.cross_entropy(net(x).float(), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    if captured:
        index = rows[0][0].clone()
        side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step(index)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            kept = step(index)

    def replay(row):
        index.copy_(row)
        graph.replay()
        return kept

    run = replay if captured else step

    def round_of_all():
        for client, batches in enumerate(rows):
            with torch.no_grad():
                torch._foreach_copy_(trained, start)
            for row in batches:
                loss = run(row)
            with torch.no_grad():
                torch._foreach_copy_(values[client], trained)
        return loss

    return round_of_all


def all_at_once(a, model, dtype, rows):
    net = Cnn(model).to(a.device)
    data = Data(a, MODELS[model][3])
    start, _ = stack_module_state([net] * len(rows))
    start = {k: v.detach() for k, v in start.items()}
    by_step = rows.transpose(0, 1).contiguous()

    def loss_of(values, x, y):
        return F.cross_entropy(functional_call(net, values, (x,)).float(), y)

    gradient = vmap(grad_and_value(loss_of))

    def round_of_all():
        values = {k: v.clone() for k, v in start.items()}
        for index in by_step:
            x, y = data.batch(index)
            with autocast(a, dtype), torch.no_grad():
                grads, loss = gradient(values, x, y)
            torch._foreach_add_(list(values.values()), [grads[k] for k in values], alpha=-LR)
        return loss.mean()

    return round_of_all


def measure(a, variant, model, dtype, clients):
    torch.manual_seed(0)
    cuda = a.device.startswith("cuda")
    rows = torch.randint(IMAGES, (clients, a.steps, a.batch), device=a.device)
    if variant == "vmap":
        run = all_at_once(a, model, dtype, rows)
    else:
        run = one_by_one(a, model, dtype, rows, variant == "captured")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    first = run().item()
    run()
    wait(a.device)
    rounds, start = 0, time.perf_counter()
    while rounds < 2 or time.perf_counter() - start < a.seconds:
        loss = run()
        wait(a.device)
        rounds += 1
    seconds = time.perf_counter() - start
    return {
        "bench": "clients",
        "who": variant,
        "model": model,
        "dtype": dtype,
        "clients": clients,
        "steps": a.steps,
        "batch": a.batch,
        "client_steps_per_s": clients * a.steps * rounds / seconds,
        "round_ms": 1e3 * seconds / rounds,
        "rounds": rounds,
        "loss_first": first,
        "loss_last": loss.item(),
        "peak_gib": torch.cuda.max_memory_allocated() / GIB if cuda else 0.0,
        "device": torch.cuda.get_device_name() if cuda else a.device,
        "versions": f"torch {torch.__version__}, cudnn {torch.backends.cudnn.version()}",
    }


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--seconds", type=float, default=3.0)
    p.add_argument("--filter", default="", help="of 'variant model dtype'")
    p.add_argument("--clients", type=int, help="instead of 100")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--device", default="cuda")
    a = p.parse_args()
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    for variant, model, dtype, clients in RUNS:
        if not re.search(a.filter, f"{variant} {model} {dtype}"):
            continue
        if variant == "captured" and not a.device.startswith("cuda"):
            continue
        print(json.dumps(measure(a, variant, model, dtype, a.clients or clients)), flush=True)


if __name__ == "__main__":
    main()
