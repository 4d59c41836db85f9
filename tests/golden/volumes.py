"""Maxima over cubes, upsampling beside a skip connection, and losses of segmentations by PyTorch, in
double precision.

Writes tests/fixtures/golden/volumes.safetensors, in hone's layout (channels last):

  pool.K.shape        int64: n, d, h, w, c, size;  .x, .y, .dy, .dx
  up.K.shape          int64: n, d, h, w, c, out_d, out_h, out_w, c_skip;  .x, .skip, .y, .dy, .dx
  seg.K.shape         int64: images, voxels, classes
  seg.K.terms         fp32: w_dice, w_focal, w_cross, smooth, alpha, gamma
  seg.K.logits, .labels (int64), .loss, .dlogits

The losses are written as segmentation_models_pytorch 0.3.4 writes DiceLoss("multiclass") and
FocalLoss("multiclass", normalized=True, reduction="sum"), for one image at a time.
"""

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from golden_util import FIXTURES

POOLS = [(2, 4, 6, 2, 3, 2), (1, 5, 7, 6, 2, 3)]
UPS = [(2, 2, 1, 3, 2, 4, 2, 6, 3), (1, 3, 2, 2, 4, 7, 5, 4, 1), (1, 2, 3, 2, 3, 2, 3, 2, 2)]
SEGS = [
    ((2, 30, 4), (1.0, 1.0, 0.0, 1e-5, 0.1, 4.5)),
    ((1, 40, 3), (1.0, 0.0, 1.0, 1e-5, 0.0, 0.0)),
    ((3, 9, 5), (0.5, 2.0, 0.25, 1.0, 0.25, 2.0)),
]


def last(t):
    return t.detach().movedim(1, -1).float().contiguous()


def pool(shape, g):
    n, d, h, w, c, size = shape
    x = torch.randn(n, c, d, h, w, generator=g).double().requires_grad_()
    y = F.max_pool3d(x, size)
    dy = torch.randn(y.shape, generator=g).double()
    y.backward(dy)
    return {"shape": torch.tensor(shape), "x": last(x), "y": last(y), "dy": last(dy),
            "dx": last(x.grad)}


def up(shape, g):
    n, d, h, w, c, od, oh, ow, cs = shape
    x = torch.randn(n, c, d, h, w, generator=g).double().requires_grad_()
    skip = torch.randn(n, cs, od, oh, ow, generator=g).double()
    y = torch.cat((skip, F.interpolate(x, (od, oh, ow), mode="nearest")), dim=1)
    dy = torch.randn(y.shape, generator=g).double()
    y.backward(dy)
    return {"shape": torch.tensor(shape), "x": last(x), "skip": last(skip), "y": last(y),
            "dy": last(dy), "dx": last(x.grad)}


def dice(z, y, smooth):
    p = z.log_softmax(1).exp()
    seen = y != -100
    t = F.one_hot(y * seen, z.shape[1]) * seen[:, None]
    p = p * seen[:, None]
    score = (2 * (p * t).sum(0) + smooth) / ((p + t).sum(0) + smooth).clamp_min(1e-7)
    return ((1 - score) * (t.sum(0) > 0)).mean()


def focal(z, y, alpha, gamma):
    loss = 0
    z, y = z[y != -100], y[y != -100]
    for c in range(z.shape[1]):
        t = (y == c).double()
        bce = F.binary_cross_entropy_with_logits(z[:, c], t, reduction="none")
        weight = (1 - torch.exp(-bce)).pow(gamma)
        each = weight * bce * (alpha * t + (1 - alpha) * (1 - t))
        loss = loss + (each / weight.sum().clamp_min(1e-6)).sum()
    return loss


def seg(shape, terms, g):
    images, voxels, classes = shape
    w_dice, w_focal, w_cross, smooth, alpha, gamma = terms
    z = (2 * torch.randn(images, voxels, classes, generator=g)).double().requires_grad_()
    y = torch.randint(0, classes - 1, (images, voxels), generator=g)  # a class that is not there
    y[:, 3::7] = -100
    y[0, 0] = classes - 1
    loss = 0
    for i in range(images):
        loss = loss + w_dice * dice(z[i], y[i], smooth) + w_cross * F.cross_entropy(z[i], y[i])
        loss = loss + w_focal * focal(z[i], y[i], alpha, gamma)
    loss.backward()
    return {"shape": torch.tensor(shape), "terms": torch.tensor(terms),
            "logits": z.detach().float(), "labels": y, "loss": loss.detach().float().reshape(1),
            "dlogits": z.grad.float()}


def main():
    g = torch.Generator().manual_seed(7)
    tensors = {}
    for kind, cases in (("pool", [pool(s, g) for s in POOLS]), ("up", [up(s, g) for s in UPS]),
                        ("seg", [seg(s, t, g) for s, t in SEGS])):
        for k, c in enumerate(cases):
            tensors |= {f"{kind}.{k}.{name}": t.contiguous() for name, t in c.items()}
    path = FIXTURES / "golden" / "volumes.safetensors"
    version = torch.__version__.split("+")[0]
    save_file(tensors, path, metadata={"made_by": "tests/golden/volumes.py", "torch": version})
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
