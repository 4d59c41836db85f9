"""Convolutions of volumes and their gradients by PyTorch, in double precision.

Writes tests/fixtures/golden/conv3d.safetensors. Case k has, in hone's layout (channels last, the
weight a matrix [out, kd kh kw in]):

  k.shape             int64: n, d, h, w, in, out, kd, kh, kw, stride, pad, dilation
  k.x, k.w, k.bias    operands, fp32
  k.dy                gradient of y
  k.y, k.dx, k.dw, k.db   results, rounded to fp32
"""

import torch
from safetensors.torch import save_file

from golden_util import FIXTURES

# n, d, h, w, in, out, kd, kh, kw, stride, pad, dilation
CASES = [
    (2, 4, 5, 6, 3, 4, 3, 3, 3, 1, 1, 1),  # U-Net
    (1, 5, 6, 9, 5, 5, 3, 3, 3, 1, 2, 2),  # MeshNet
    (1, 5, 4, 7, 2, 3, 3, 3, 3, 1, 8, 8),  # dilation beyond the volume
    (2, 3, 4, 5, 6, 3, 1, 1, 1, 1, 0, 1),  # its classifier
    (1, 5, 6, 7, 3, 4, 3, 3, 3, 2, 1, 1),  # steps
    (1, 4, 7, 6, 2, 3, 2, 3, 1, 3, 2, 2),  # everything at once
    (1, 3, 3, 3, 1, 2, 3, 3, 3, 1, 0, 1),  # one voxel of y
    (1, 2, 3, 2, 2, 2, 3, 2, 2, 4, 3, 1),  # windows in the padding alone
]


def case(shape, generator):
    n, d, h, w, channels, out, kd, kh, kw, stride, pad, dilation = shape

    def normal(*size):
        return torch.randn(*size, generator=generator).double().requires_grad_()

    x = normal(n, channels, d, h, w)
    weight = normal(out, channels, kd, kh, kw)
    bias = normal(out)
    y = torch.nn.functional.conv3d(x, weight, bias, stride, pad, dilation)
    dy = torch.randn(y.shape, generator=generator).double()
    y.backward(dy)

    def volumes(t):
        return t.detach().permute(0, 2, 3, 4, 1).float().contiguous()

    return {
        "shape": torch.tensor(shape),
        "x": volumes(x),
        "w": volumes(weight).reshape(out, -1),
        "bias": bias.detach().float(),
        "dy": volumes(dy),
        "y": volumes(y),
        "dx": volumes(x.grad),
        "dw": volumes(weight.grad).reshape(out, -1),
        "db": bias.grad.float(),
    }


def main():
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for k, shape in enumerate(CASES):
        for name, t in case(shape, generator).items():
            tensors[f"{k}.{name}"] = t
    path = FIXTURES / "golden" / "conv3d.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    version = torch.__version__.split("+")[0]
    save_file(tensors, path, metadata={"made_by": "tests/golden/conv3d.py", "torch": version})
    print(f"{path.name}: {len(CASES)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
