"""Networks that segment volumes, by PyTorch.

Writes in tests/fixtures/golden
  model_unet3d.safetensors   pytorch-3dunet's UNet3D (written out below) with 2 channels, 3 classes,
                             f_maps [4, 8, 16], layer_order "gcr", 4 groups: parameters under their
                             names, and  volumes, labels, logits, loss (cross-entropy, mean over each
                             volume, summed), train.grad.<name> (norm, sum g[k] cos k)
  model_meshnet.safetensors  what meshnet5 and meshnet20 of the data folder (meshnet-brain) make of
                             a volume:  volume [d, h, w, 1], meshnet5, meshnet20 [d, h, w, classes]
"""

import json
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from golden_util import FIXTURES, data_dir

OUT = FIXTURES / "golden"


class Single(nn.Module):
    def __init__(self, i, o, groups):
        super().__init__()
        self.groupnorm = nn.GroupNorm(1 if i < groups else groups, i)
        self.conv = nn.Conv3d(i, o, 3, padding=1, bias=False)

    def forward(self, x):
        return F.relu(self.conv(self.groupnorm(x)))


class Block(nn.Module):
    def __init__(self, i, o, encoder, groups):
        super().__init__()
        middle = max(o // 2, i) if encoder else o
        self.basic_module = nn.Module()
        self.basic_module.SingleConv1 = Single(i, middle, groups)
        self.basic_module.SingleConv2 = Single(middle, o, groups)

    def forward(self, x):
        return self.basic_module.SingleConv2(self.basic_module.SingleConv1(x))


class UNet3D(nn.Module):
    def __init__(self, channels, classes, maps, groups):
        super().__init__()
        self.encoders = nn.ModuleList(
            Block(i, o, True, groups) for i, o in zip([channels] + maps, maps)
        )
        back = maps[::-1]
        self.decoders = nn.ModuleList(
            Block(i + o, o, False, groups) for i, o in zip(back, back[1:])
        )
        self.final_conv = nn.Conv3d(maps[0], classes, 1)

    def forward(self, x):
        made = []
        for k, encoder in enumerate(self.encoders):
            x = encoder(F.max_pool3d(x, 2) if k else x)
            made.insert(0, x)
        for decoder, skip in zip(self.decoders, made[1:]):
            x = decoder(torch.cat((skip, F.interpolate(x, skip.shape[2:], mode="nearest")), 1))
        return self.final_conv(x)


def last(t):
    return t.detach().movedim(1, -1).contiguous()


def unet():
    torch.manual_seed(11)
    model = UNet3D(2, 3, [4, 8, 16], 4)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "groupnorm" in name:
                p.add_(0.2 * torch.randn(p.shape))
    count = sum(p.numel() for p in UNet3D(1, 4, [4, 8, 16, 32], 4).parameters())
    x = torch.randn(2, 2, 5, 6, 9)
    y = torch.randint(0, 3, (2, 5, 6, 9))
    logits = model(x)
    loss = F.cross_entropy(logits[:1], y[:1]) + F.cross_entropy(logits[1:], y[1:])
    loss.backward()
    out = {n: p.detach().contiguous() for n, p in model.named_parameters()}
    out |= {"volumes": last(x), "labels": y.int().reshape(-1), "logits": last(logits)}
    out["loss"] = loss.detach().reshape(1)
    for n, p in model.named_parameters():
        g = p.grad.double().reshape(-1)
        probe = (g * torch.cos(torch.arange(g.numel()).double())).sum()
        out["train.grad." + n] = torch.stack((g.norm(), probe)).float()
    print("unet3d-fets:", count, "parameters")
    return out


def meshnet(folder, name, x):
    w = load_file(folder / f"{name}.safetensors")
    for entry in json.loads((folder / f"{name}.arch.json").read_text()):
        if "activation" in entry:
            x = F.relu(x) if entry["activation"] == "relu" else F.elu(x)
            continue
        n, k, d = entry["layer"], entry["kernel"], entry["dilation"]
        x = F.conv3d(x, w[n + ".weight"].double(), w[n + ".bias"].double(), 1, d * (k - 1) // 2, d)
    return last(x)[0].float().contiguous()


def brain():
    folder = data_dir(sys.argv[1] if len(sys.argv) > 1 else None) / "meshnet-brain"
    g = torch.Generator().manual_seed(3)
    x = torch.rand(1, 1, 11, 12, 19, generator=g).float().double()
    out = {"volume": last(x)[0].float()}
    return out | {n: meshnet(folder, n, x) for n in ("meshnet5", "meshnet20")}


def save(name, tensors):
    path = OUT / f"{name}.safetensors"
    version = torch.__version__.split("+")[0]
    meta = {"made_by": "tests/golden/make_seg_golden.py", "torch": version}
    save_file(tensors, path, metadata=meta)
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    save("model_unet3d", unet())
    save("model_meshnet", brain())
