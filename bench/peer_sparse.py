"""What PyTorch offers for hone-bench's topk, sparse_update and block_score, in the same sizes.

    python3 bench/peer_sparse.py [--seconds 1]

topk: torch.topk, sorted and not. sparse_update: fused AdamW over the flat changes, then the sums
with the frozen weights written to sorted random places of one flat bf16 tensor of the 1B model's
size, by index_put_ and by scatter_. block_score: mean of squares over a view of four axes, eager
and compiled. One JSON line a measurement: mean milliseconds of calls back to back on CUDA events.
hone's side is `hone-bench --filter topk` and so on, on the same machine right before or after.
"""

import argparse

import torch

from peer_clock import milliseconds, say

WEIGHTS = 16 * 60817408
TOPK = [(10**8, 10**5), (10**8, 10**6), (10**8, 5 * 10**6)]
TOPK += [(10**9, 10**6), (10**9, 10**7), (10**9, 5 * 10**7)]
ENTRIES = [10**6, 10**7, 5 * 10**7]
SCORES = [(8192, 2048, 1, 1), (8192, 2048, 4, 4), (8192, 2048, 16, 16), (8192, 2048, 128, 128)]
SCORES += [(8192, 2048, 1, 2048), (8192, 2048, 8192, 1)]


def topk(n, k, seconds):
    x = torch.randn(n, device="cuda")
    for ordered in (False, True):
        try:
            ms = milliseconds(lambda: torch.topk(x, k, sorted=ordered), seconds)
        except RuntimeError as why:  # out of memory
            say(bench="topk", n=n, k=k, error=str(why)[:80])
            continue
        how = "sorted" if ordered else "unsorted"
        say(bench="topk", how=how, n=n, k=k, ms=round(ms, 4))


def sparse_update(entries, seconds):
    weights = torch.randn(WEIGHTS, device="cuda", dtype=torch.bfloat16)
    part = WEIGHTS // entries
    index = torch.arange(entries, device="cuda") * part
    index += torch.randint(part, (entries,), device="cuda")
    frozen = weights[index]
    delta = torch.zeros(entries, device="cuda", requires_grad=True)
    optimizer = torch.optim.AdamW([delta], lr=1e-4, fused=True)
    grad = torch.randn(entries, device="cuda")

    def update():
        delta.grad = grad
        optimizer.step()
        grad.zero_()

    @torch.no_grad()
    def index_put():
        weights.index_put_((index,), (frozen + delta).to(torch.bfloat16))

    @torch.no_grad()
    def scatter():
        weights.scatter_(0, index, (frozen + delta).to(torch.bfloat16))

    both = {"fused AdamW": [update], "fused AdamW + index_put_": [update, index_put]}
    both["fused AdamW + scatter_"] = [update, scatter]
    for how, calls in both.items():
        ms = milliseconds(lambda: [call() for call in calls], seconds)
        say(bench="sparse_update", how=how, entries=entries, ms=round(ms, 4))


def block_score(out, width, br, bc, seconds):
    sets = [torch.randn(out, width, device="cuda") for _ in range(4)]  # more than the L2

    def score(dw):
        return dw.view(out // br, br, width // bc, bc).div(16384).square().mean(dim=(1, 3))

    for how, f in (("eager", score), ("compiled", torch.compile(score, dynamic=False))):
        ms = milliseconds(lambda: [f(dw) for dw in sets], seconds) / len(sets)
        shape = {"out": out, "in": width, "br": br, "bc": bc}
        say(bench="block_score", how=how, **shape, ms=round(ms, 4))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    a = p.parse_args()
    torch.manual_seed(0)
    for shape in TOPK:
        topk(*shape, a.seconds)
        torch.cuda.empty_cache()
    for entries in ENTRIES:
        sparse_update(entries, a.seconds)
        torch.cuda.empty_cache()
    for shape in SCORES:
        block_score(*shape, a.seconds)


if __name__ == "__main__":
    main()
