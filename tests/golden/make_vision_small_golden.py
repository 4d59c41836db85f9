"""Activations, pooling, the option-A shortcut and class tokens, by PyTorch.

Writes tests/golden/vision_small.json; images are channels-last, [n, h, w, c], gradients are those
of sum(y * dy):

  act_<kind>       x, dy, y, dx; gelu_tanh and quick_gelu by Transformers' own activations
  pool_<case>      shape [n, h, w, c], size, stride, pad, max, include (count_include_pad), x, y, dy,
                   dx; size 0 is adaptive_avg_pool2d to 1 x 1
  shortcut_<case>  shape, stride, channels, x, y, dy, dx
  token_<case>     images, patches, dim, x, cls (empty: none), pos, y, dy, dx, dcls, dpos
  rows             rows, stride, offset, cols, x, y, dy, dx
"""

import platform

import torch
import torch.nn.functional as F
from transformers.activations import NewGELUActivation, QuickGELUActivation

from golden_util import GOLDEN, f9s, write_json

ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": NewGELUActivation(),
    "silu": F.silu,
    "quick_gelu": QuickGELUActivation(),
}

# (n, h, w, c), size, stride, pad, max, count_include_pad
POOLS = {
    "max_2": ((2, 5, 4, 3), 2, 2, 0, True, False),
    "max_stem": ((1, 9, 8, 3), 3, 2, 1, True, False),
    "max_overlap": ((1, 5, 5, 2), 3, 1, 1, True, False),
    "avg_2": ((2, 4, 6, 3), 2, 2, 0, False, False),
    "avg_pad": ((1, 7, 5, 3), 3, 2, 1, False, False),
    "avg_include": ((1, 7, 5, 3), 3, 2, 1, False, True),
    "image": ((3, 4, 3, 5), 0, 0, 0, False, False),
}

SHORTCUTS = {"halve": ((2, 4, 6, 4), 2, 8), "odd": ((1, 5, 3, 2), 2, 6), "same": ((1, 3, 2, 2), 1, 2)}
TOKENS = {"cls": (3, 4, 5, True), "no_cls": (2, 3, 4, False)}


def nchw(x):
    return x.permute(0, 3, 1, 2)


def gradient(y, dy, *inputs):
    return torch.autograd.grad(y, inputs, dy)


def activation(f):
    x = torch.cat([torch.linspace(-9, 9, 37), torch.tensor([-30.0, 0.0, 30.0]), torch.randn(40)])
    x.requires_grad_()
    y = f(x)
    dy = torch.randn_like(y)
    return {"x": f9s(x.detach()), "dy": f9s(dy), "y": f9s(y.detach()), "dx": f9s(gradient(y, dy, x)[0])}


def pool(shape, size, stride, pad, is_max, include):
    # rounded, so that windows have several maxima: the first takes the gradient
    x = (2 * torch.randn(shape)).round() if is_max else torch.randn(shape)
    x.requires_grad_()
    if size == 0:
        y = F.adaptive_avg_pool2d(nchw(x), 1)
    elif is_max:
        y = F.max_pool2d(nchw(x), size, stride, pad)
    else:
        y = F.avg_pool2d(nchw(x), size, stride, pad, count_include_pad=include)
    y = y.permute(0, 2, 3, 1)
    dy = torch.randn_like(y)
    return {
        "shape": list(shape),
        "size": size,
        "stride": stride,
        "pad": pad,
        "max": int(is_max),
        "include": int(include),
        "x": f9s(x.detach()),
        "y": f9s(y.detach()),
        "dy": f9s(dy),
        "dx": f9s(gradient(y, dy, x)[0]),
    }


def shortcut(shape, stride, channels):
    x = torch.randn(shape, requires_grad=True)
    side = (channels - shape[3]) // 2
    y = F.pad(nchw(x)[:, :, ::stride, ::stride], (0, 0, 0, 0, side, side)).permute(0, 2, 3, 1)
    dy = torch.randn_like(y)
    return {
        "shape": list(shape),
        "stride": stride,
        "channels": channels,
        "x": f9s(x.detach()),
        "y": f9s(y.detach()),
        "dy": f9s(dy),
        "dx": f9s(gradient(y, dy, x)[0]),
    }


def token(images, patches, dim, with_cls):
    x = torch.randn(images, patches, dim, requires_grad=True)
    cls = torch.randn(1, 1, dim, requires_grad=True)
    pos = torch.randn(1, patches + with_cls, dim, requires_grad=True)
    tokens = torch.cat([cls.expand(images, -1, -1), x], 1) if with_cls else x
    y = tokens + pos
    dy = torch.randn_like(y)
    dx, dpos, *dcls = gradient(y, dy, x, pos, *([cls] if with_cls else []))
    return {
        "images": images,
        "patches": patches,
        "dim": dim,
        "x": f9s(x.detach()),
        "cls": f9s(cls.detach()) if with_cls else [],
        "pos": f9s(pos.detach()),
        "y": f9s(y.detach()),
        "dy": f9s(dy),
        "dx": f9s(dx),
        "dcls": f9s(dcls[0]) if with_cls else [],
        "dpos": f9s(dpos),
    }


def rows(n=3, stride=4, offset=1, cols=5):
    x = torch.randn(n, stride, cols, requires_grad=True)
    y = x[:, offset]
    dy = torch.randn_like(y)
    return {
        "rows": n,
        "stride": stride,
        "offset": offset,
        "cols": cols,
        "x": f9s(x.detach()),
        "y": f9s(y.detach()),
        "dy": f9s(dy),
        "dx": f9s(gradient(y, dy, x)[0]),
    }


def main():
    torch.manual_seed(5)
    versions = {"python": platform.python_version(), "torch": torch.__version__.split("+")[0]}
    out = {"made_by": "tests/golden/make_vision_small_golden.py", "versions": versions}
    for name, f in ACTIVATIONS.items():
        out[f"act_{name}"] = activation(f)
    for name, c in POOLS.items():
        out[f"pool_{name}"] = pool(*c)
    for name, c in SHORTCUTS.items():
        out[f"shortcut_{name}"] = shortcut(*c)
    for name, c in TOKENS.items():
        out[f"token_{name}"] = token(*c)
    out["rows"] = rows()
    out["act_elu"] = activation(F.elu)  # last: the values before it stay what they are
    write_json(GOLDEN / "vision_small.json", out)


if __name__ == "__main__":
    main()
