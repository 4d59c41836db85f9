"""What the PyTorch peers share: continuous steps, timed as hone's are; single operations, called
back to back; a JSON line a measurement."""

import json
import os
import time

import torch
import torch.distributed as dist
from torch import nn

GIB = 2.0**30
MARKS = 1000  # of a run: an event around each of 100,000 short steps would be part of their time


def join(device):
    """Where torchrun has started several ranks, joins them, one GPU each, for
    DistributedDataParallel. Returns the rank, how many there are, and the rank's device."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        return 0, 1, device
    local = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local)
    dist.init_process_group("nccl", device_id=torch.device("cuda", local))
    return dist.get_rank(), ranks, f"cuda:{local}"


def leave():
    if dist.is_initialized():
        dist.destroy_process_group()


def data_parallel(module):
    """The module, its gradients averaged over the ranks where there are several."""
    if not dist.is_initialized():
        return module
    return nn.parallel.DistributedDataParallel(
        module, device_ids=[torch.cuda.current_device()], gradient_as_bucket_view=True
    )


def same_everywhere(seconds):
    """Rank 0's."""
    if not dist.is_initialized():
        return seconds
    value = torch.tensor([seconds], device="cuda", dtype=torch.float64)
    dist.broadcast(value, 0)
    return value.item()


class Clock:
    """Moments on the device's time line; on the CPU those of the host."""

    def __init__(self, device):
        self.cuda = device.startswith("cuda")
        self.marks = []

    def mark(self):
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def intervals_ms(self):
        pairs = list(zip(self.marks, self.marks[1:]))
        if self.cuda:
            torch.cuda.synchronize()
            return [x.elapsed_time(y) for x, y in pairs]
        return [(y - x) * 1e3 for x, y in pairs]


def wait(device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def step_count(step, device, seconds, least):
    """How many steps fill the time, from a few of them: later ones are then not waited for."""
    tried, took = 1, 0.0
    while took < min(0.2, seconds):
        tried *= 2
        start = time.perf_counter()
        for number in range(tried):
            step(number)
        wait(device)
        took = same_everywhere(time.perf_counter() - start)
    return max(least, int(seconds / max(took / tried, 1e-6) * 1.05) + 1)


def timed(step, device, seconds, least):
    """Continuous steps: the keys of the result that come of them, and the last loss. step(number)
    gives its loss and waits for nothing."""
    n = step_count(step, device, seconds, least)
    every = max(1, n // MARKS)
    n += -n % every
    clock = Clock(device)
    window = [time.time()]
    start = time.perf_counter()
    clock.mark()
    for number in range(n):
        loss = step(number)
        if (number + 1) % every == 0:
            clock.mark()
    wait(device)
    elapsed = time.perf_counter() - start
    window.append(time.time())
    ms = sorted(t / every for t in clock.intervals_ms())
    return {
        "steps": n,
        "seconds": elapsed,
        "step_ms": [ms[round(q * (len(ms) - 1))] for q in (0.2, 0.5, 0.8)],
        "window": window,
        "loss_last": loss.item(),
    }


def milliseconds(call, seconds, least=5):
    """Of an operation on the GPU: the mean of calls back to back, at least so many."""

    def elapsed(n):
        clock = Clock("cuda")
        clock.mark()
        for _ in range(n):
            call()
        clock.mark()
        return clock.intervals_ms()[0]

    for _ in range(3):
        call()
    once = max(elapsed(1), 1e-3)
    n = max(least, int(1e3 * seconds / once))
    return elapsed(n) / n


def say(**line):
    print(json.dumps({"who": "torch"} | line | {"versions": torch.__version__}), flush=True)
