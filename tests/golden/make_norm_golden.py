"""Batch, layer and group normalisation by torch.nn.functional, with their gradients.

Writes tests/fixtures/golden/norm.json. Inputs are float32, everything is worked out in float64:

  batch_*  x, res, dy [images, height, width, channels]; gain, bias; running_mean, running_var before
           and *_after; y = batch_norm(x) (+ res, then relu where `relu`), dx, dres, dgain, dbias
  layer_*  x, dy [rows, cols]; gain, bias (absent: none); y, dx, dgain, dbias; mean, rstd of the rows
  group_*  x, dy [images, height, width, channels], groups; gain, bias; y, dx, dgain, dbias
"""

import torch
import torch.nn.functional as F

from golden_util import FIXTURES, f9s, versions, write_json


def normal(generator, *shape, mean=0.0, sd=1.0):
    return (mean + sd * torch.randn(*shape, generator=generator)).float().double()


def leaves(*tensors):
    return [t.clone().requires_grad_() for t in tensors]


def flat(**tensors):
    return {name: f9s(t.detach().numpy()) for name, t in tensors.items()}


def batch_case(seed, shape, training, relu, momentum, eps):
    g = torch.Generator().manual_seed(seed)
    c = shape[-1]
    x0, res0, dy = (normal(g, *shape, mean=m) for m in (0.5, 0.0, 0.0))
    gain0, bias0 = normal(g, c, mean=1.0, sd=0.3), normal(g, c, sd=0.3)
    running = normal(g, c, sd=0.2), normal(g, c).abs() + 0.5
    after = [t.clone() for t in running]
    x, res, gain, bias = leaves(x0, res0, gain0, bias0)
    y = F.batch_norm(x.permute(0, 3, 1, 2), *after, gain, bias, training, momentum, eps)
    y = y.permute(0, 2, 3, 1)
    if relu:
        y = F.relu(y + res)
    y.backward(dy)
    out = {"shape": shape, "training": training, "relu": relu, "momentum": momentum, "eps": eps}
    out |= flat(x=x0, dy=dy, gain=gain0, bias=bias0, y=y)
    out |= flat(running_mean=running[0], running_var=running[1])
    out |= flat(running_mean_after=after[0], running_var_after=after[1])
    out |= flat(dx=x.grad, dgain=gain.grad, dbias=bias.grad)
    if relu:
        out |= flat(res=res0, dres=res.grad)
    return out


def layer_case(seed, rows, cols, eps, has_bias):
    g = torch.Generator().manual_seed(seed)
    x0, dy = normal(g, rows, cols, mean=0.5), normal(g, rows, cols)
    gain0, bias0 = normal(g, cols, mean=1.0, sd=0.3), normal(g, cols, sd=0.3)
    x, gain, bias = leaves(x0, gain0, bias0)
    y = F.layer_norm(x, (cols,), gain, bias if has_bias else None, eps)
    y.backward(dy)
    out = {"shape": [rows, cols], "eps": eps}
    out |= flat(x=x0, dy=dy, gain=gain0, y=y, dx=x.grad, dgain=gain.grad)
    out |= flat(mean=x0.mean(1), rstd=(x0.var(1, unbiased=False) + eps).rsqrt())
    if has_bias:
        out |= flat(bias=bias0, dbias=bias.grad)
    return out


def group_case(seed, shape, groups, eps):
    g = torch.Generator().manual_seed(seed)
    c = shape[-1]
    x0, dy = normal(g, *shape, mean=0.5), normal(g, *shape)
    gain0, bias0 = normal(g, c, mean=1.0, sd=0.3), normal(g, c, sd=0.3)
    x, gain, bias = leaves(x0, gain0, bias0)
    y = F.group_norm(x.permute(0, 3, 1, 2), groups, gain, bias, eps).permute(0, 2, 3, 1)
    y.backward(dy)
    out = {"shape": shape, "groups": groups, "eps": eps}
    return out | flat(x=x0, dy=dy, gain=gain0, bias=bias0, y=y, dx=x.grad) | flat(
        dgain=gain.grad, dbias=bias.grad
    )


def main():
    write_json(
        FIXTURES / "golden" / "norm.json",
        {
            "made_by": "tests/golden/make_norm_golden.py",
            "versions": versions(),
            "batch_train": batch_case(1, [3, 2, 3, 5], True, False, 0.1, 1e-5),
            "batch_train_relu": batch_case(2, [2, 4, 3, 8], True, True, 0.25, 1e-5),
            "batch_eval": batch_case(3, [3, 2, 3, 5], False, False, 0.1, 1e-3),
            "batch_eval_relu": batch_case(4, [2, 3, 3, 4], False, True, 0.1, 1e-5),
            "layer_gpt2": layer_case(5, 5, 12, 1e-5, True),
            "layer_vit": layer_case(6, 3, 33, 1e-6, True),
            "layer_plain": layer_case(7, 4, 9, 1e-12, False),
            "group_3": group_case(8, [2, 3, 2, 6], 3, 1e-5),
            "group_1": group_case(9, [3, 2, 2, 4], 1, 1e-5),
            "group_instance": group_case(10, [2, 3, 3, 5], 5, 1e-3),
        },
    )


if __name__ == "__main__":
    main()
