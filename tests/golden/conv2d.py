"""Convolutions and their gradients by PyTorch, in double precision.

Writes tests/fixtures/golden/conv2d.safetensors. Case k has, in hone's layout (channels last, the
weight a matrix [out, kh kw in/groups]):

  k.shape             int64: n, h, w, in, out, kh, kw, stride, pad, dilation, groups
  k.x, k.w, k.bias    operands, fp32
  k.dy                gradient of y
  k.y, k.dx, k.dw, k.db   results, rounded to fp32
"""

import torch
from safetensors.torch import save_file

from golden_util import FIXTURES

# n, h, w, in, out, kh, kw, stride, pad, dilation, groups
CASES = [
    (2, 7, 6, 8, 5, 3, 3, 1, 1, 1, 1),  # ResNet
    (2, 8, 8, 4, 8, 3, 3, 2, 1, 1, 1),  # its steps down: a row and a column are left over
    (2, 8, 8, 4, 8, 1, 1, 2, 0, 1, 1),  # and their shortcuts
    (1, 17, 16, 3, 6, 7, 7, 2, 3, 1, 1),  # stem for ImageNet
    (2, 9, 8, 3, 10, 4, 4, 4, 0, 1, 1),  # patches of a ViT; a row is left over
    (2, 5, 4, 6, 7, 1, 1, 1, 0, 1, 1),  # pointwise
    (1, 9, 9, 4, 6, 3, 3, 1, 2, 2, 2),  # dilation, groups
    (2, 6, 7, 10, 10, 3, 3, 1, 1, 1, 10),  # depthwise
    (2, 9, 8, 5, 5, 3, 3, 2, 1, 1, 5),
    (1, 6, 6, 4, 8, 3, 3, 1, 1, 1, 4),  # two outputs a channel
    (1, 11, 13, 2, 3, 5, 3, 3, 2, 2, 1),  # everything at once
    (1, 4, 4, 1, 1, 4, 4, 3, 0, 1, 1),  # one pixel of y
    (1, 2, 3, 2, 2, 3, 2, 4, 3, 1, 1),  # windows in the padding alone
]


def case(shape, generator):
    n, h, w, channels, out, kh, kw, stride, pad, dilation, groups = shape

    def normal(*size):
        return torch.randn(*size, generator=generator).double().requires_grad_()

    x = normal(n, channels, h, w)
    weight = normal(out, channels // groups, kh, kw)
    bias = normal(out)
    y = torch.nn.functional.conv2d(x, weight, bias, stride, pad, dilation, groups)
    dy = torch.randn(y.shape, generator=generator).double()
    y.backward(dy)

    def images(t):
        return t.detach().permute(0, 2, 3, 1).float().contiguous()

    def matrix(t):
        return t.detach().permute(0, 2, 3, 1).reshape(out, -1).float().contiguous()

    return {
        "shape": torch.tensor(shape),
        "x": images(x),
        "w": matrix(weight),
        "bias": bias.detach().float(),
        "dy": images(dy),
        "y": images(y),
        "dx": images(x.grad),
        "dw": matrix(weight.grad),
        "db": bias.grad.float(),
    }


def main():
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for k, shape in enumerate(CASES):
        for name, t in case(shape, generator).items():
            tensors[f"{k}.{name}"] = t
    path = FIXTURES / "golden" / "conv2d.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    version = torch.__version__.split("+")[0]
    save_file(tensors, path, metadata={"made_by": "tests/golden/conv2d.py", "torch": version})
    print(f"{path.name}: {len(CASES)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
