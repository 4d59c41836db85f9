"""Small random models of every vision family and GPT-2: logits, gradients and running values.

Writes tests/fixtures/golden/model_<name>.safetensors. Models of Hugging Face are those of
Transformers and have their config.json in the metadata ("config"); the others are written out below
with the names of torchvision, timm, pytorch_resnet_cifar10 and pytorch-cifar.

  <parameter>              fp32, as a file of the model has it
  in.images                [n, h, w, channels]; in.tokens, in.offsets: of GPT-2, sequences one
                           behind the other
  in.dlogits               the loss is sum(logits * dlogits)
  <mode>.logits            mode eval: batch norm by the running values; train: by the batch
  <mode>.grad.<parameter>  [2]: 2-norm of the gradient, and sum_i grad[i] * cos(i), i = row-major
                           index of the file: differs when elements are permuted
  train.buffer.<name>      running values behind the pass

All arithmetic is double precision on the fp32 values of the file.
"""

import json

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from golden_util import FIXTURES, ROOT

# ---- models by their files' names ----


def conv(i, o, k, stride=1, groups=1):
    return nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False)


class Block(nn.Module):
    """shortcut: name of the projection, or None for option A."""

    def __init__(self, i, o, stride, bottleneck, shortcut):
        super().__init__()
        self.n = 3 if bottleneck else 2
        m = o // 4
        convs = (
            [conv(i, m, 1), conv(m, m, 3, stride), conv(m, o, 1)]
            if bottleneck
            else [conv(i, o, 3, stride), conv(o, o, 3)]
        )
        for k, c in enumerate(convs, 1):
            setattr(self, f"conv{k}", c)
            setattr(self, f"bn{k}", nn.BatchNorm2d(c.out_channels))
        self.way, self.pad = shortcut, 0
        if stride != 1 or i != o:
            if shortcut:
                setattr(self, shortcut, nn.Sequential(conv(i, o, 1, stride), nn.BatchNorm2d(o)))
            else:
                self.pad = o // 4

    def forward(self, x):
        y = x
        for k in range(1, self.n + 1):
            y = getattr(self, f"bn{k}")(getattr(self, f"conv{k}")(y))
            if k < self.n:
                y = F.relu(y)
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        elif self.way and hasattr(self, self.way):
            x = getattr(self, self.way)(x)
        return F.relu(y + x)


class ResNet(nn.Module):
    def __init__(self, stem, imagenet, depths, widths, bottleneck, shortcut, head, classes):
        super().__init__()
        self.imagenet, self.stages, self.head = imagenet, len(depths), head
        self.conv1 = conv(3, stem, 7, 2) if imagenet else conv(3, stem, 3)
        self.bn1 = nn.BatchNorm2d(stem)
        i = stem
        for s, (depth, o) in enumerate(zip(depths, widths), 1):
            blocks = []
            for k in range(depth):
                stride = 2 if s > 1 and k == 0 else 1
                blocks.append(Block(i, o, stride, bottleneck, shortcut))
                i = o
            setattr(self, f"layer{s}", nn.Sequential(*blocks))
        setattr(self, head, nn.Linear(i, classes))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        if self.imagenet:
            x = F.max_pool2d(x, 3, 2, 1)
        for s in range(1, self.stages + 1):
            x = getattr(self, f"layer{s}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


class Step(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(i, i, 3, stride, i), nn.BatchNorm2d(i)
        self.conv2, self.bn2 = conv(i, o, 1), nn.BatchNorm2d(o)

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Separable(nn.Module):
    def __init__(self, stem, widths, strides, classes):
        super().__init__()
        self.conv1, self.bn1 = conv(3, stem, 3), nn.BatchNorm2d(stem)
        ins = [stem, *widths]
        self.layers = nn.Sequential(*(Step(i, o, s) for i, o, s in zip(ins, widths, strides)))
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x):
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.linear(x.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x):
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(n, t, d))


class Layer(nn.Module):
    def __init__(self, d, heads, h):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d, 1e-6), nn.LayerNorm(d, 1e-6)
        self.attn = Attention(d, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(d, h), "fc2": nn.Linear(h, d)})

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class ViT(nn.Module):
    def __init__(self, image, patch, d, heads, h, layers, classes):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d))
        self.pos_embed = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 1, d))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, d, patch, patch)})
        self.blocks = nn.Sequential(*(Layer(d, heads, h) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(d, 1e-6), nn.Linear(d, classes)

    def forward(self, x):
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class Cnn(nn.Module):
    def __init__(self, channels, widths, pixels, hidden, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 5)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5)
        self.fc1 = nn.Linear(pixels * widths[1], hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


# ---- what is written ----


def random_weights(model, generator):
    """Nothing at its default: sizes that keep logits near 1."""

    def noise(t):
        return torch.randn(t.shape, generator=generator, dtype=torch.float32)

    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if p.ndim == 1:
                p.copy_(0.2 * noise(p) + (1 if name.endswith("weight") else 0))
            elif p.ndim == 3 or "wte" in name or "wpe" in name:
                p.copy_(0.5 * noise(p))
            else:
                fan_in = p.shape[0] if "c_" in name else p[0].numel()
                p.copy_((noise(p) / fan_in**0.5).float())
        for name, b in sorted(model.named_buffers()):
            if name.endswith("running_mean"):
                b.copy_(0.2 * noise(b))
            elif name.endswith("running_var"):
                b.copy_((1 + 0.3 * noise(b)).abs() + 0.1)


def probe(g):
    g = g.double().ravel()
    return torch.stack([g.norm(), (g * torch.cos(torch.arange(len(g)).double())).sum()]).float()


# Transformers 5 renames vision transformers in memory; files keep the old names.
IN_FILES = {
    "vit.layers.": "vit.encoder.layer.",
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def in_files(model, name):
    if isinstance(model, ViTForImageClassification):
        for memory, file in IN_FILES.items():
            name = name.replace(memory, file)
    return name


def parameters(model):
    """Of a file: shared ones once, without counters."""
    shared = {id(p): n for n, p in model.named_parameters()}
    named = {n: p.detach() for n, p in model.named_parameters() if shared[id(p)] == n}
    return named | {n: b for n, b in model.named_buffers() if "running" in n}


def make(name, model, inputs, forward, seed, modes, config=None):
    """forward(model) gives logits [rows, classes]."""
    generator = torch.Generator().manual_seed(seed)
    random_weights(model, generator)
    model = model.double()
    out = {
        in_files(model, n): t.float().contiguous().clone() for n, t in parameters(model).items()
    }
    out |= inputs
    for mode in modes:
        model.train(mode == "train")
        model.zero_grad()
        logits = forward(model)
        if "in.dlogits" not in out:
            out["in.dlogits"] = torch.randn(logits.shape, generator=generator)
        (logits * out["in.dlogits"].double()).sum().backward()
        out[f"{mode}.logits"] = logits.detach().float().contiguous()
        for n, p in model.named_parameters():
            out[f"{mode}.grad.{in_files(model, n)}"] = probe(p.grad)
    if "train" in modes:
        for n, b in model.named_buffers():
            if "running" in n:
                out[f"train.buffer.{n}"] = b.float()
    path = FIXTURES / "golden" / f"model_{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(out, path, metadata={"config": json.dumps(config)} if config else None)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes, |logits| {logits.abs().max():.2f}")


def images(n, size, channels, seed):
    return torch.randn(n, size, size, channels, generator=torch.Generator().manual_seed(seed))


def make_vision(name, model, size, seed, channels=3, modes=("eval",), config=None, n=3):
    x = images(n, size, channels, seed + 1)

    def forward(m):
        y = m(x.double().permute(0, 3, 1, 2))
        return y if isinstance(y, torch.Tensor) else y.logits

    make(name, model, {"in.images": x}, forward, seed, modes, config)


def make_gpt2(seed):
    config = {
        "model_type": "gpt2",
        "vocab_size": 20,
        "n_positions": 16,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "activation_function": "gelu_new",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    model = GPT2LMHeadModel(GPT2Config(**config, attn_implementation="eager"))
    lengths = [7, 5]
    tokens = torch.randint(0, 20, (sum(lengths),), generator=torch.Generator().manual_seed(seed))

    def forward(m):
        return torch.cat([m(t[None], use_cache=False).logits[0] for t in tokens.split(lengths)])

    inputs = {
        "in.tokens": tokens.int(),
        "in.offsets": torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32),
    }
    make("gpt2_hf", model, inputs, forward, seed, ("eval",), config)


def main():
    both = ("eval", "train")
    a = ResNet(4, False, [1, 2, 1], [4, 8, 16], False, None, "linear", 5)
    make_vision("resnet_option_a", a, 12, 10, modes=both)
    basic = ResNet(4, True, [1, 1, 1], [4, 8, 10], False, "downsample", "fc", 5)
    make_vision("resnet_basic", basic, 32, 20, modes=both)
    deep = ResNet(8, True, [1, 2], [16, 24], True, "downsample", "fc", 5)
    make_vision("resnet_bottleneck", deep, 24, 30, modes=both)
    make_vision("separable", Separable(6, [10, 8, 12], [1, 2, 1], 5), 10, 40, modes=both)
    make_vision("vit_timm", ViT(12, 4, 16, 2, 24, 2, 5), 12, 50)
    make_vision("cnn", Cnn(1, [4, 8], 4, 12, 5), 20, 60, channels=1)

    labels = {"id2label": {str(k): f"L{k}" for k in range(5)}}
    config = {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [16, 24],
        "depths": [1, 2],
        "layer_type": "bottleneck",
        "downsample_in_first_stage": True,
        "downsample_in_bottleneck": True,
        **labels,
    }
    hf = ResNetForImageClassification(ResNetConfig(**config))
    make_vision("resnet_hf", hf, 32, 70, modes=both, config=config)
    config = {
        "model_type": "vit",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "image_size": 12,
        "patch_size": 4,
        **labels,
    }
    hf = ViTForImageClassification(ViTConfig(**config, attn_implementation="eager"))
    make_vision("vit_hf", hf, 12, 80, config=config)
    make_gpt2(90)


if __name__ == "__main__":
    main()
