"""A step of few-shot tuning: the gradient of ProtoNet's loss with respect to a ViT's biases.

Writes tests/fixtures/golden/few_shot.safetensors:

  pixels [n, 8, 8, 3] u8, labels [n]   the support images of an episode, which are its queries, too
  <parameter>                          fp32, of a vision transformer with timm's names, no head
  loss [1]                             the mean over the queries
  grad.<parameter>                     of the summed loss, for all biases of the blocks

The prototypes and the queries are two passes through the network, as in P>M>F; logits are
7 (cosine + 0.25). All arithmetic is double precision on the fp32 values of the file.
"""

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from golden_util import FIXTURES

D, LAYERS, HEADS, PATCH, SIDE, HIDDEN, N, WAYS = 16, 2, 2, 4, 8, 32, 8, 3
MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.25, 0.2, 0.3])


def parameters():
    g = torch.Generator().manual_seed(3)

    def draw(*shape, scale=0.3):
        return torch.randn(*shape, generator=g) * scale

    p = {
        "cls_token": draw(1, 1, D),
        "pos_embed": draw(1, (SIDE // PATCH) ** 2 + 1, D),
        "patch_embed.proj.weight": draw(D, 3, PATCH, PATCH, scale=0.1),
        "patch_embed.proj.bias": draw(D, scale=0.1),
        "norm.weight": 1 + draw(D, scale=0.1),
        "norm.bias": draw(D, scale=0.1),
    }
    for i in range(LAYERS):
        for name, o, k in (
            ("attn.qkv", 3 * D, D),
            ("attn.proj", D, D),
            ("mlp.fc1", HIDDEN, D),
            ("mlp.fc2", D, HIDDEN),
        ):
            p[f"blocks.{i}.{name}.weight"] = draw(o, k)
            p[f"blocks.{i}.{name}.bias"] = draw(o, scale=0.1)
        for name in ("norm1", "norm2"):
            p[f"blocks.{i}.{name}.weight"] = 1 + draw(D, scale=0.1)
            p[f"blocks.{i}.{name}.bias"] = draw(D, scale=0.1)
    return p


def features(p, x):
    def norm(name, x):
        return F.layer_norm(x, (D,), p[name + ".weight"], p[name + ".bias"], 1e-6)

    def linear(name, x):
        return F.linear(x, p[name + ".weight"], p[name + ".bias"])

    x = F.conv2d(x, p["patch_embed.proj.weight"], p["patch_embed.proj.bias"], stride=PATCH)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([p["cls_token"].expand(x.shape[0], -1, -1), x], 1) + p["pos_embed"]
    for i in range(LAYERS):
        b = f"blocks.{i}."
        qkv = linear(b + "attn.qkv", norm(b + "norm1", x)).reshape(*x.shape[:2], 3, HEADS, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + linear(b + "attn.proj", a)
        x = x + linear(b + "mlp.fc2", F.gelu(linear(b + "mlp.fc1", norm(b + "norm2", x))))
    return norm("norm", x)[:, 0]


def main():
    g = torch.Generator().manual_seed(4)
    pixels = torch.randint(0, 256, (N, SIDE, SIDE, 3), generator=g, dtype=torch.uint8)
    labels = torch.tensor([0, 2, 1, 1, 0, 2, 2, 2])
    stored = parameters()
    p = {k: v.double() for k, v in stored.items()}
    trained = [k for k in p if k.startswith("blocks.") and k.endswith(".bias")]
    for k in trained:
        p[k].requires_grad_()
    x = ((pixels.double() / 255 - MEAN.double()) / STD.double()).permute(0, 3, 1, 2)
    support, query = features(p, x), features(p, x)
    prototypes = torch.stack([support[labels == c].mean(0) for c in range(WAYS)])
    logits = 7 * (F.cosine_similarity(query[:, None], prototypes[None], dim=-1) + 0.25)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    loss.backward()
    out = dict(stored) | {"grad." + k: p[k].grad.float() for k in trained}
    out |= {"pixels": pixels, "labels": labels.int(), "loss": (loss / N).float().detach()[None]}
    save_file({k: v.contiguous() for k, v in out.items()},
              FIXTURES / "golden" / "few_shot.safetensors")


if __name__ == "__main__":
    main()
