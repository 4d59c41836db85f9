"""A drift network (runtime/model/drift.h) by PyTorch: parameters, inputs, slope, gradients.

Writes tests/fixtures/golden/drift.safetensors: every parameter by name; features, labels, images
(how many support rows of a task count), z, t (a time a point), slope, dslope, and "grad:<name>" of
sum(slope * dslope). Sizes stand in tests/test_drift.cc, which reads it.
"""

import math

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from golden_util import FIXTURES

TOKENS, TOKEN_WIDTH, FEATURES, WIDTH, BLOCKS, HEADS, MLP, QUERIES, TIME = 5, 4, 3, 16, 2, 2, 24, 4, 8
TASKS, SUPPORT, POINTS = 2, 6, 3
EPS = 1e-6
CONTEXT = (2 * FEATURES + 8) // 8 * 8


def parameters():
    shapes = {
        "support.input": (CONTEXT, WIDTH), "support.norm": None, "support.queries": (QUERIES, WIDTH),
        "support.q": (WIDTH, WIDTH), "support.kv": (WIDTH, 2 * WIDTH), "support.proj": (WIDTH, WIDTH),
        "support.out_norm": None, "time.0": (TIME, WIDTH), "time.2": (WIDTH, WIDTH),
        "modulation": (WIDTH, 2 * (3 * BLOCKS + 1) * WIDTH), "cross.kv": (WIDTH, 2 * BLOCKS * WIDTH),
        "input": (TOKEN_WIDTH, WIDTH), "tokens": (TOKENS, WIDTH), "output": (WIDTH, TOKEN_WIDTH),
    }
    for i in range(BLOCKS):
        for name, shape in {"attn.qkv": (WIDTH, 3 * WIDTH), "attn.proj": (WIDTH, WIDTH),
                            "cross.q": (WIDTH, WIDTH), "cross.proj": (WIDTH, WIDTH),
                            "mlp.fc1": (WIDTH, MLP), "mlp.fc2": (MLP, WIDTH)}.items():
            shapes[f"blocks.{i}.{name}"] = shape
    p = {}
    for name, shape in shapes.items():
        if name in ("tokens", "support.queries"):
            p[f"drift.{name}"] = torch.randn(shape)
        elif shape is None:
            p[f"drift.{name}.weight"] = 1 + 0.2 * torch.randn(WIDTH)
            p[f"drift.{name}.bias"] = 0.2 * torch.randn(WIDTH)
        else:
            p[f"drift.{name}.weight"] = torch.randn(shape[1], shape[0]) / math.sqrt(shape[0])
            p[f"drift.{name}.bias"] = 0.2 * torch.randn(shape[1])
    return {k: v.requires_grad_() for k, v in p.items()}


def linear(p, name, x):
    return F.linear(x, p[f"drift.{name}.weight"], p[f"drift.{name}.bias"])


def norm(p, name, x):
    return F.layer_norm(x, (WIDTH,), p[f"drift.{name}.weight"], p[f"drift.{name}.bias"], EPS)


def attend(q, k, v):
    q, k, v = (x.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(-3, -2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2)


def context(f, label):
    rows = []
    for j in range(len(label)):
        same = f[label == label[j]]
        u = torch.cat([f[j], same.mean(0), torch.tensor([math.log(len(same))])])
        rows.append(F.pad(u, (0, CONTEXT - len(u))))
    return torch.stack(rows)


def task_of(p, f, label):
    n = norm(p, "support.norm", linear(p, "support.input", context(f, label)))
    k, v = linear(p, "support.kv", n).chunk(2, -1)
    x = p["drift.support.queries"]
    x = x + linear(p, "support.proj", attend(linear(p, "support.q", x), k, v))
    return norm(p, "support.out_norm", x)


def sinusoids(t):
    i = torch.arange(TIME // 2, dtype=torch.float64)
    angle = 1000 * t.double() * 10000 ** (-i / (TIME // 2))
    return torch.cat([angle.sin(), angle.cos()]).float()


def slope_of(p, task, z, t):
    c = linear(p, "time.2", F.silu(linear(p, "time.0", sinusoids(t)))) + task.mean(0)
    scale_shift = linear(p, "modulation", F.silu(c)).split(WIDTH)
    keys = linear(p, "cross.kv", task).split(WIDTH, -1)

    def m(k, x):
        return F.layer_norm(x, (WIDTH,), eps=EPS) * (1 + scale_shift[2 * k]) + scale_shift[2 * k + 1]

    x = linear(p, "input", z) + p["drift.tokens"]
    for i in range(BLOCKS):
        b = f"blocks.{i}"
        q, k, v = linear(p, f"{b}.attn.qkv", m(3 * i, x)).chunk(3, -1)
        x = x + linear(p, f"{b}.attn.proj", attend(q, k, v))
        q = linear(p, f"{b}.cross.q", m(3 * i + 1, x))
        x = x + linear(p, f"{b}.cross.proj", attend(q, keys[2 * i], keys[2 * i + 1]))
        x = x + linear(p, f"{b}.mlp.fc2", F.gelu(linear(p, f"{b}.mlp.fc1", m(3 * i + 2, x))))
    return linear(p, "output", m(3 * BLOCKS, x))


def main():
    torch.manual_seed(8)
    p = parameters()
    features = torch.randn(TASKS, SUPPORT, FEATURES)
    labels = torch.tensor([[0, 1, 1, 0, 1, 2], [1, 0, 1, 1, -100, -100]], dtype=torch.int32)
    images = torch.tensor([6, 4], dtype=torch.int32)
    z = torch.randn(TASKS, POINTS, TOKENS, TOKEN_WIDTH)
    t = torch.rand(TASKS, POINTS)
    slope = []
    for e in range(TASKS):
        n = int(images[e])
        task = task_of(p, features[e, :n], labels[e, :n])
        slope += [slope_of(p, task, z[e, i], t[e, i]) for i in range(POINTS)]
    slope = torch.stack(slope)
    dslope = torch.randn_like(slope)
    grads = torch.autograd.grad((slope * dslope).sum(), list(p.values()))
    out = {k: v.detach() for k, v in p.items()}
    out |= {f"grad:{k}": g for k, g in zip(p, grads)}
    out |= {"features": features, "labels": labels, "images": images, "z": z, "t": t,
            "slope": slope.detach(), "dslope": dslope}
    save_file({k: v.contiguous() for k, v in out.items()}, FIXTURES / "golden" / "drift.safetensors")


if __name__ == "__main__":
    main()
