"""PyTorch's attention through cuDNN and flash beside hone's: causal, 32 query and 8 key/value heads.

    python3 bench/peer_attention.py [--seconds 1]

For each of the two shapes of a step (8 x 2048 heads of 64; 4 x 2048 heads of 128), in bf16: forward,
backward as PyTorch does it by default, and backward with torch.use_deterministic_algorithms.
One JSON line a measurement: mean milliseconds of calls back to back on CUDA events, TFLOP/s as
hone-bench counts them (half of the square, backward 2.5 times the forward). hone's side of the
comparison is `hone-bench --filter attention`, run on the same machine right before or after.
"""

import argparse
import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from peer_clock import milliseconds, say

HEADS, KV_HEADS = 32, 8
SHAPES = [(8, 2048, 64), (4, 2048, 128)]
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def measure(batch, length, dim, backend, seconds):
    def tensor(heads):
        t = torch.randn(batch, length, heads, dim, device="cuda", dtype=torch.bfloat16)
        return t.transpose(1, 2).requires_grad_()

    q, k, v = tensor(HEADS), tensor(KV_HEADS), tensor(KV_HEADS)
    dout = torch.randn(batch, length, HEADS, dim, device="cuda", dtype=torch.bfloat16)
    dout = dout.transpose(1, 2)
    flops = 2.0 * batch * length * length * HEADS * dim

    def forward():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    def time(what, call, factor):
        ms = milliseconds(call, seconds, least=20)
        line = {"backend": backend, "pass": what, "batch": batch, "length": length}
        line |= {"head_dim": dim, "ms": round(ms, 4)}
        line |= {"tflops": round(1e-9 * factor * flops / ms, 1)}
        say(**line, cudnn=torch.backends.cudnn.version())

    with sdpa_kernel(BACKENDS[backend]):
        time("forward", forward, 1.0)
        for deterministic in (False, True):
            torch.use_deterministic_algorithms(deterministic)
            out = forward()
            time(
                "backward, deterministic" if deterministic else "backward",
                lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True),
                2.5,
            )
        torch.use_deterministic_algorithms(False)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    a = p.parse_args()
    torch.manual_seed(0)
    for shape in SHAPES:
        for backend in BACKENDS:
            try:
                measure(*shape, backend, a.seconds)
            except RuntimeError as e:
                say(backend=backend, error=str(e)[:200])
                torch.use_deterministic_algorithms(False)


if __name__ == "__main__":
    main()
