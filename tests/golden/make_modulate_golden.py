"""modulate and regression by PyTorch, in float64 from float32 inputs.

Writes tests/golden/modulate.json:

  modulate    by case: groups, rows of a group, cols, eps, x, res, scale, shift, dy, dsum; y and sum,
              and by autograd dx, dscale, dshift of sum(y dy) + sum(sum dsum)
  regression  groups, rows of a group, cols, y, target; loss and dy of the sum over the groups of
              torch.nn.functional.mse_loss
"""

import numpy as np
import torch
import torch.nn.functional as F

from golden_util import GOLDEN, f9s, write_json


def normal(rng, *shape, scale=1.0):
    v = (rng.standard_normal(shape) * scale).astype(np.float32)
    return torch.from_numpy(v).double().requires_grad_()


def flat(t):
    return f9s(t.detach().numpy().astype(np.float32).ravel())


def modulate(rng, groups, rows, cols, eps):
    n = groups * rows
    x, res, dy, dsum = (normal(rng, n, cols) for _ in range(4))
    scale, shift = (normal(rng, groups, cols, scale=0.3) for _ in range(2))
    total = x + res
    z = F.layer_norm(total, (cols,), eps=eps) if eps > 0 else total
    y = z * (1 + scale.repeat_interleave(rows, 0)) + shift.repeat_interleave(rows, 0)
    ((y * dy.detach()).sum() + (total * dsum.detach()).sum()).backward()
    return {
        "groups": groups, "rows": rows, "cols": cols, "eps": eps,
        "x": flat(x), "res": flat(res), "scale": flat(scale), "shift": flat(shift),
        "dy": flat(dy), "dsum": flat(dsum), "y": flat(y), "sum": flat(total),
        "dx": flat(x.grad), "dscale": flat(scale.grad), "dshift": flat(shift.grad),
    }


def regression(rng, groups, rows, cols):
    y, target = normal(rng, groups * rows, cols), normal(rng, groups * rows, cols)
    parts = zip(y.split(rows), target.detach().split(rows))
    loss = sum(F.mse_loss(a, b) for a, b in parts)
    loss.backward()
    return {
        "groups": groups, "rows": rows, "cols": cols, "y": flat(y), "target": flat(target),
        "loss": float(loss.detach()), "dy": flat(y.grad),
    }


def main():
    rng = np.random.default_rng(8)
    write_json(GOLDEN / "modulate.json", {
        "modulate": [modulate(rng, 3, 4, 10, 1e-6), modulate(rng, 2, 5, 16, 0.0)],
        "regression": [regression(rng, 3, 2, 7)],
    })


if __name__ == "__main__":
    main()
