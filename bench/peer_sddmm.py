"""PyTorch's ways to the gradient of chosen elements of a weight, beside hone's block_dw.

    python3 bench/peer_sddmm.py [--seconds 0.5] [--block 1 32 128] [--ppm 1000 11600]

For the matrices and densities of hone-bench's block_dw (masks of blocks drawn at random): the whole
gradient alone, the whole gradient and a gather of the chosen elements (torch, bf16), and cuSPARSE's
sampled product through torch.sparse.sampled_addmm (CSR; f32, and bf16 where it takes it). One JSON
line a measurement: mean microseconds of calls back to back on CUDA events. hone's side is
`hone-bench --filter block_dw`, run on the same machine right before or after.
"""

import argparse

import torch

from peer_clock import milliseconds, say

MATRICES = [(16384, 2048, 2048), (16384, 2048, 8192), (16384, 8192, 2048)]
MATRICES += [(8192, 4096, 4096), (8192, 4096, 14336)]


def mask(rows, cols, block, ppm):
    """Row and column of every chosen element, row by row."""
    down, across = rows // block, cols // block
    count = max(1, down * across * ppm // 1000000)
    chosen = torch.zeros(down * across, dtype=torch.bool, device="cuda")
    chosen[torch.randperm(down * across, device="cuda")[:count]] = True
    chosen = chosen.view(down, 1, across, 1).expand(-1, block, -1, block)
    return chosen.reshape(rows, cols).nonzero(as_tuple=True)


def csr(at, rows, cols, dtype):
    first = torch.zeros(rows + 1, dtype=torch.int64, device="cuda")
    first[1:] = torch.bincount(at[0], minlength=rows).cumsum(0)
    values = torch.zeros(at[0].numel(), dtype=dtype, device="cuda")
    return torch.sparse_csr_tensor(first, at[1], values, (rows, cols))


def measure(tokens, cols, rows, block, ppm, seconds):
    line = {"rows": tokens, "in": cols, "out": rows, "block": block, "ppm": ppm}

    def time(what, dtype, call):
        result = {"what": what, "dtype": dtype} | line
        try:
            result["us"] = round(1e3 * milliseconds(call, seconds), 2)
        except (RuntimeError, NotImplementedError) as error:
            result["refused"] = str(error).splitlines()[0]
        say(**result)

    at = mask(rows, cols, block, ppm)
    flat = at[0] * cols + at[1]
    line["elements"] = flat.numel()
    dy = torch.randn(tokens, rows, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(tokens, cols, device="cuda", dtype=torch.bfloat16)
    grad = torch.zeros(flat.numel(), device="cuda")
    time("dense", "bf16", lambda: dy.t() @ x)
    time("dense and gather", "bf16", lambda: grad.add_((dy.t() @ x).view(-1)[flat]))
    for dtype, name in ((torch.float32, "f32"), (torch.bfloat16, "bf16")):
        a, b, c = dy.t().to(dtype).contiguous(), x.to(dtype), csr(at, rows, cols, dtype)
        time("cusparse sddmm", name, lambda: torch.sparse.sampled_addmm(c, a, b))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seconds", type=float, default=0.5)
    p.add_argument("--block", type=int, nargs="+", default=[1, 32, 128])
    p.add_argument("--ppm", type=int, nargs="+", default=[1000, 11600, 50000])
    o = p.parse_args()
    torch.manual_seed(1)
    for matrix in MATRICES:
        for block in o.block:
            for ppm in o.ppm:
                measure(*matrix, block, ppm, o.seconds)


if __name__ == "__main__":
    main()
