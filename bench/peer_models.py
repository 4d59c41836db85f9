"""The image classifiers of peer_vision.py, in PyTorch: the names and shapes of hone's."""

import importlib.util

import torch
from torch import nn
from torch.nn import functional as F


def conv_bn(inputs, outputs, kernel, stride=1, groups=1):
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first = conv_bn(inputs, outputs, 3, stride)
        self.second = conv_bn(outputs, outputs, 3)
        changes = stride != 1 or inputs != outputs
        self.shortcut = conv_bn(inputs, outputs, 1, stride) if changes else nn.Identity()

    def forward(self, x):
        return F.relu_(self.second(F.relu_(self.first(x))) + self.shortcut(x))


class ResNet18(nn.Module):
    """He et al., 2016, on 32 x 32: a 3x3 stem, no max-pool."""

    def __init__(self, classes=10):
        super().__init__()
        blocks, inputs = [], 64
        for stage, width in enumerate((64, 128, 256, 512)):
            blocks += [Block(inputs, width, 2 if stage else 1), Block(width, width, 1)]
            inputs = width
        self.stem, self.blocks = conv_bn(3, 64, 3), nn.Sequential(*blocks)
        self.fc = nn.Linear(512, classes)

    def forward(self, x):
        return self.fc(self.blocks(F.relu_(self.stem(x))).mean((2, 3)))


class Separable(nn.Module):
    """The widths of MobileNet-v1 on 32 x 32."""

    STEPS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
    STEPS += [(1024, 2), (1024, 1)]

    def __init__(self, classes=10):
        super().__init__()
        layers, inputs = [conv_bn(3, 32, 3), nn.ReLU(inplace=True)], 32
        for width, stride in self.STEPS:
            layers += [conv_bn(inputs, inputs, 3, stride, groups=inputs), nn.ReLU(inplace=True)]
            layers += [conv_bn(inputs, width, 1), nn.ReLU(inplace=True)]
            inputs = width
        self.layers, self.linear = nn.Sequential(*layers), nn.Linear(inputs, classes)

    def forward(self, x):
        return self.linear(self.layers(x).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, tokens, width = x.shape
        qkv = self.qkv(x).view(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(n, tokens, width))


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """timm's vision transformer, without dropout and stochastic depth (its defaults)."""

    def __init__(self, image, patch, classes, width=192, heads=3, layers=12):
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, (image // patch) ** 2 + 1, width))
        self.layers = nn.Sequential(*[Layer(width, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.layers(x))[:, 0])


class MnistCnn(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 5), nn.Conv2d(32, 64, 5)
        self.fc1, self.fc2 = nn.Linear(1024, 1024), nn.Linear(1024, classes)

    def forward(self, x):
        x = F.relu_(F.max_pool2d(self.conv1(x), 2))  # relu behind the pool: a quarter of the pixels
        x = F.relu_(F.max_pool2d(self.conv2(x), 2))
        return self.fc2(F.relu_(self.fc1(x.flatten(1))))


MODELS = {  # image, channels, classes, how to make it
    "resnet18-cifar": (32, 3, 10, ResNet18),
    "separable-cifar": (32, 3, 10, Separable),
    "vit_tiny_patch16_224": (224, 3, 1000, lambda: ViT(224, 16, 1000)),
    "vit-tiny-cifar": (32, 3, 10, lambda: ViT(32, 4, 10)),
    "mnist-cnn": (28, 1, 10, MnistCnn),
}


def make(name):
    """The model and where it comes from: timm's own vision transformer where timm is there."""
    if name.startswith("vit_") and importlib.util.find_spec("timm"):
        import timm

        return timm.create_model(name), f"timm {timm.__version__}"
    return MODELS[name][3](), "bench/peer_models.py"
