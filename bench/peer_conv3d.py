"""PyTorch's convolutions of volumes beside hone's: 3 x 3 x 3, bf16, channels last.

    python3 bench/peer_conv3d.py [--seconds 0.3] [--most 55] [--layout channels_last|contiguous]

For the shapes of bench_conv3d.c: forward, gradient of x, gradient of w, each by itself through
aten::convolution_backward, with torch.backends.cudnn.benchmark on (cuDNN's fastest algorithm,
whatever it repeats). One JSON line a measurement: mean milliseconds of calls back to back on CUDA
events, TFLOP/s and GB/s as hone-bench counts them. hone's side of the comparison is `hone-bench
--filter conv3d`, run on the same machine right before or after. cuDNN's search for the fastest
algorithm takes seconds for some shapes: behind --most seconds no further measurement begins, and a
line says how many are left.
"""

import argparse
import json
import time

import torch

from peer_clock import milliseconds

# d, h, w, in, out, dilation
SHAPES = [
    (155, 240, 240, 1, 2, 1), (155, 240, 240, 12, 4, 1), (155, 240, 240, 4, 4, 1),
    (77, 120, 120, 8, 8, 1), (38, 60, 60, 48, 16, 1), (19, 30, 30, 32, 32, 1),
    (256, 256, 256, 5, 5, 1), (256, 256, 256, 5, 5, 16), (256, 256, 256, 20, 20, 4),
    (32, 32, 32, 128, 128, 1),
]


def measure(shape, layout, seconds, end):
    """How many of the three passes were left out: the time was over."""
    d, h, w, channels, out, dilation = shape
    memory = torch.channels_last_3d if layout == "channels_last" else torch.contiguous_format

    def tensor(*size):
        t = torch.randn(*size, device="cuda", dtype=torch.bfloat16)
        return t.contiguous(memory_format=memory)

    x, weight = tensor(1, channels, d, h, w), tensor(out, channels, 3, 3, 3)
    dy = tensor(1, out, d, h, w)
    where = ([1] * 3, [dilation] * 3, [dilation] * 3)

    def forward():
        return torch.ops.aten.convolution(x, weight, None, *where, False, [0] * 3, 1)

    def backward(*wanted):
        return torch.ops.aten.convolution_backward(
            dy, x, weight, None, *where, False, [0] * 3, 1, [*wanted, False]
        )

    calls = {"fwd": forward, "dx": lambda: backward(True, False), "dw": lambda: backward(False, True)}
    flops = 2.0 * d * h * w * 27 * channels * out
    moved = 2.0 * d * h * w * (channels + out)
    left = 0
    for name, call in calls.items():
        if time.monotonic() > end:
            left += 1
            continue
        line = {"who": "torch", "layout": layout, "pass": name}
        line |= dict(zip(("d", "h", "w", "in", "out", "dilation"), shape))
        try:
            ms = milliseconds(call, seconds)
        except RuntimeError as error:  # cuDNN has no plan, or no memory for one
            line |= {"error": str(error).splitlines()[0]}
        else:
            line |= {"ms": round(ms, 4), "tflops": round(1e-9 * flops / ms, 2)}
            line |= {"gb_s": round(1e-6 * moved / ms, 1)}
        line |= {"versions": torch.__version__, "cudnn": torch.backends.cudnn.version()}
        print(json.dumps(line), flush=True)
    return left


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--most", type=float, default=55.0, help="seconds of all of it")
    parser.add_argument("--layout", choices=("channels_last", "contiguous"), default="channels_last")
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    end = time.monotonic() + args.most
    left = sum(measure(shape, args.layout, args.seconds, end) for shape in SHAPES)
    if left:
        print(json.dumps({"who": "torch", "left": left, "most": args.most}))


if __name__ == "__main__":
    main()
