"""Optimizer trajectories by torch.optim, gradient clipping, and Transformers' schedules.

Writes tests/golden/optim.json:

  start         float32 parameter vector before step 1
  grads         float32 gradient vector of each step, the same for every case
  optimizers    by case: settings, and `after`: the parameters after each step, fp32 arithmetic
                (single-tensor code path); AdamW also gives exp_avg and exp_avg_sq at the end
  clips         vectors, max_norm, the 2-norm over all of them and the clipped vectors:
                scale = min(1, max_norm / (norm + 1e-6)), torch.nn.utils.clip_grad_norm_
  schedules     by case: warm-up steps, total steps, `factor`[s] = lr(s) / lr for s = 0 .. total+2,
                where s counts finished optimizer steps (factor[0] drives the first step)
"""

import numpy as np
import torch
from transformers import (
    get_constant_schedule,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from golden_util import GOLDEN, f9, f9s, versions, write_json

STEPS, WIDTH = 10, 7

OPTIMIZERS = {
    "adamw": ("AdamW", dict(lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)),
    "adamw_decay": ("AdamW", dict(lr=1e-2, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.1)),
    "sgd": ("SGD", dict(lr=0.05)),
    "sgd_decay": ("SGD", dict(lr=0.05, weight_decay=0.1)),
    "sgd_momentum": ("SGD", dict(lr=0.05, momentum=0.9)),
    "sgd_momentum_decay": ("SGD", dict(lr=0.05, momentum=0.9, weight_decay=0.1)),
    "sgd_nesterov": ("SGD", dict(lr=0.05, momentum=0.9, nesterov=True)),
    "sgd_nesterov_decay": ("SGD", dict(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1)),
}

SCHEDULES = {
    "constant": lambda o, warm, total: get_constant_schedule(o),
    "constant_warmup": lambda o, warm, total: get_constant_schedule_with_warmup(o, warm),
    "linear": get_linear_schedule_with_warmup,
    "cosine": get_cosine_schedule_with_warmup,
}


def trajectory(kind, settings, start, grads):
    p = torch.nn.Parameter(torch.from_numpy(start.copy()))
    opt = getattr(torch.optim, kind)([p], foreach=False, **settings)
    after = []
    for g in grads:
        p.grad = torch.from_numpy(g.copy())
        opt.step()
        after.append(f9s(p.detach()))
    out = {"kind": kind, **settings, "after": after}
    if kind == "AdamW":
        out["exp_avg"] = f9s(opt.state[p]["exp_avg"])
        out["exp_avg_sq"] = f9s(opt.state[p]["exp_avg_sq"])
    return out


def clip(vectors, max_norm):
    params = [torch.nn.Parameter(torch.zeros(len(v))) for v in vectors]
    for p, v in zip(params, vectors):
        p.grad = torch.tensor(v, dtype=torch.float32)
    norm = torch.nn.utils.clip_grad_norm_(params, max_norm, foreach=False)
    return {
        "max_norm": max_norm,
        "vectors": vectors,
        "norm": f9(norm),
        "clipped": [f9s(p.grad) for p in params],
    }


def schedule(make, warm, total):
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    sched = make(opt, warm, total)
    factors = []
    for _ in range(total + 3):
        factors.append(f9(opt.param_groups[0]["lr"]))
        opt.step()
        sched.step()
    return factors


def main():
    rng = np.random.default_rng(7)
    start = rng.standard_normal(WIDTH).astype(np.float32)
    grads = rng.standard_normal((STEPS, WIDTH)).astype(np.float32)
    grads[:, 2] *= 1e-4  # small and large gradients: AdamW's eps and bias corrections show
    grads[:, 5] *= 1e3
    grads[3] = 0.0
    write_json(
        GOLDEN / "optim.json",
        {
            "made_by": "tests/golden/make_optim_golden.py",
            "versions": versions(),
            "start": f9s(start),
            "grads": [f9s(g) for g in grads],
            "optimizers": {n: trajectory(*c, start, grads) for n, c in OPTIMIZERS.items()},
            "clips": [
                clip([[3.0, -4.0], [12.0]], 1.0),
                clip([[3.0, -4.0], [12.0]], 13.0),
                clip([[0.3, -0.4], [0.0]], 1.0),
                clip([[0.0], [0.0, 0.0]], 1.0),
            ],
            "schedules": [
                {"name": n, "warmup": w, "total": t, "factor": schedule(make, w, t)}
                for n, make in SCHEDULES.items()
                for w, t in ((0, 8), (3, 12), (5, 5))
            ],
        },
    )


if __name__ == "__main__":
    main()
