"""Losses over class logits, penalties and batches of images, by PyTorch.

Writes tests/golden/loss.json, all numbers float32:

  class_ce      by case: settings, logits, labels (-100: ignored), and loss, count, hits, dlogits,
                prediction of torch.nn.functional.cross_entropy(reduction="sum") over the range
  distill       by case: settings, student, teacher, labels (null: none), and loss, dstudent of
                weight * T^2 * kl_div(log_softmax(student / T), softmax(teacher / T), "sum")
  anchor        p, ref, fisher, grad, count, weight; after autograd of the penalty: loss, grad
  fisher        f, grads and counts of batches, keep, scale: what f is after all of them
  image_prep    by case: settings, images, labels, index; y and y_labels. Crops are taken from the
                zero-padded image, resized boxes by torch.nn.functional.interpolate (bilinear, no
                antialias); boxes by torchvision's RandomResizedCrop.get_params, written with hone's
                random numbers
"""

import math
import platform

import numpy as np
import torch
import torch.nn.functional as F

from golden_util import GOLDEN, f9, f9s, hash_name, rng_make, rng_words, write_json

IGNORED = -100


# --- losses ---------------------------------------------------------------------------------


def class_ce(rng, rows, classes, first, n, smoothing):
    n = n or classes - first
    logits = rng.standard_normal((rows, classes)).astype(np.float32) * 3
    labels = first + rng.integers(0, n, rows)
    labels[1::3] = IGNORED
    z = torch.from_numpy(logits).requires_grad_()
    y = torch.from_numpy(np.where(labels == IGNORED, IGNORED, labels - first))
    part = z[:, first : first + n]
    loss = F.cross_entropy(part, y, label_smoothing=smoothing, reduction="sum")
    loss.backward()
    best = part.argmax(dim=1)
    return {
        "rows": rows,
        "classes": classes,
        "first_class": first,
        "n_classes": n,
        "smoothing": smoothing,
        "logits": f9s(logits),
        "labels": labels.tolist(),
        "loss": f9(loss.detach()),
        "count": int((y != IGNORED).sum()),
        "hits": int((best == y).sum()),
        "prediction": (best + first).tolist(),
        "dlogits": f9s(z.grad),
    }


def distill(rng, rows, classes, teacher_classes, first, n, temperature, weight, ignored):
    n = n or classes - first
    student = rng.standard_normal((rows, classes)).astype(np.float32) * 3
    teacher = rng.standard_normal((rows, teacher_classes)).astype(np.float32) * 3
    labels = np.zeros(rows, dtype=np.int64)
    if ignored:
        labels[2::3] = IGNORED
    keep = torch.from_numpy(labels != IGNORED)
    s = torch.from_numpy(student).requires_grad_()
    t = torch.from_numpy(teacher)
    log_p = F.log_softmax(s[keep, first : first + n] / temperature, dim=1)
    q = F.softmax(t[keep, first : first + n] / temperature, dim=1)
    loss = weight * temperature**2 * F.kl_div(log_p, q, reduction="sum")
    loss.backward()
    return {
        "rows": rows,
        "classes": classes,
        "teacher_classes": teacher_classes,
        "first_class": first,
        "n_classes": n,
        "temperature": temperature,
        "weight": weight,
        "student": f9s(student),
        "teacher": f9s(teacher),
        "labels": labels.tolist() if ignored else None,
        "loss": f9(loss.detach()),
        "dstudent": f9s(s.grad),
    }


def anchor(rng, n):
    p, ref, grad = rng.standard_normal((3, n)).astype(np.float32)
    fisher = rng.random(n).astype(np.float32)
    count, weight = 12.0, 0.75
    x = torch.from_numpy(p).requires_grad_()
    d = x - torch.from_numpy(ref)
    loss = count * weight / 2 * (torch.from_numpy(fisher) * d * d).sum()
    loss.backward()
    return {
        "p": f9s(p),
        "ref": f9s(ref),
        "fisher": f9s(fisher),
        "grad": f9s(grad),
        "count": count,
        "weight": weight,
        "loss": f9(loss.detach()),
        "after": f9s(grad + x.grad.numpy()),
    }


def fisher(rng, n):
    """Avalanche: importance += grad of the mean loss squared, times the batch; / data at the end."""
    f = rng.random(n).astype(np.float32)
    grads = rng.standard_normal((3, n)).astype(np.float32) * 8
    counts, keep = [4.0, 4.0, 2.0], 0.5
    scale = 1 / sum(counts)
    after = torch.from_numpy(f.copy()) * keep
    for g, count in zip(torch.from_numpy(grads), counts):
        after += (g / count) ** 2 * count * scale
    return {
        "f": f9s(f),
        "grads": [f9s(g) for g in grads],
        "counts": counts,
        "keep": keep,
        "scale": scale,
        "after": f9s(after),
    }


# --- images ---------------------------------------------------------------------------------


def below(word, n):
    return int(word) * n >> 32


def resized_box(words, height, width, scale, ratio):
    """RandomResizedCrop.get_params: (top, left, height, width)."""
    area = height * width
    for t in range(1, 11):
        w = words[4 * t : 4 * t + 4]
        target = area * (scale[0] + int(w[0]) / 2**32 * (scale[1] - scale[0]))
        lo, hi = math.log(ratio[0]), math.log(ratio[1])
        a = math.exp(lo + int(w[1]) / 2**32 * (hi - lo))
        bw, bh = round(math.sqrt(target * a)), round(math.sqrt(target / a))
        if 0 < bw <= width and 0 < bh <= height:
            return below(w[2], height - bh + 1), below(w[3], width - bw + 1), bh, bw
    if width / height < min(ratio):
        bw, bh = width, round(width / min(ratio))
    elif width / height > max(ratio):
        bw, bh = round(height * max(ratio)), height
    else:
        bw, bh = width, height
    return (height - bh) // 2, (width - bw) // 2, bh, bw


def image_prep(rng, name, count, height, width, channels, n, out, **o):
    images = rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    labels = rng.integers(0, 100, count)
    index = rng.integers(0, count, n)
    index[2] = -1
    seed, step, row_offset = 5, 9, 2
    key = hash_name(name)
    words = rng_words(rng_make(seed, step, key), row_offset + n, 44)[row_offset:]
    mean, std = o["mean"][:channels], o["std"][:channels]
    pad, scale, ratio = o.get("pad", 0), o.get("scale", (0, 0)), o.get("ratio", (0, 0))
    y, y_labels = [], []
    for i in range(n):
        if index[i] < 0:
            y.append(torch.zeros(*out, channels))
            y_labels.append(IGNORED)
            continue
        x = torch.from_numpy(images[index[i]]).permute(2, 0, 1).float()
        if o["resized"]:
            top, left, bh, bw = resized_box(words[i], height, width, scale, ratio)
            x = x[:, top : top + bh, left : left + bw]
            x = F.interpolate(x[None], size=out, mode="bilinear", align_corners=False)[0]
        else:
            x = F.pad(x, (pad, pad, pad, pad))
            top = below(words[i][0], height + 2 * pad - out[0] + 1)
            left = below(words[i][1], width + 2 * pad - out[1] + 1)
            x = x[:, top : top + out[0], left : left + out[1]]
        if int(words[i][2]) / 2**32 < o["flip"]:
            x = x.flip(2)
        x = x / 255
        x = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        y.append(x.permute(1, 2, 0))
        y_labels.append(int(labels[index[i]]))
    return {
        "name": name,
        "count": count,
        "height": height,
        "width": width,
        "channels": channels,
        "n": n,
        "out": list(out),
        "resized": o["resized"],
        "pad": pad,
        "flip": o["flip"],
        "scale": list(scale),
        "ratio": list(ratio),
        "mean": mean,
        "std": std,
        "seed": seed,
        "step": step,
        "row_offset": row_offset,
        "images": images.ravel().tolist(),
        "labels": labels.tolist(),
        "index": index.tolist(),
        "y": f9s(torch.stack(y)),
        "y_labels": y_labels,
    }


def main():
    rng = np.random.default_rng(11)
    rgb = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], flip=0.5)
    ranges = dict(scale=(0.0625, 1.0), ratio=(0.75, 1.25))
    write_json(
        GOLDEN / "loss.json",
        {
            "made_by": "tests/golden/make_loss_golden.py",
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__.split("+")[0],
            },
            "class_ce": [
                class_ce(rng, 7, 10, 0, 0, 0.0),
                class_ce(rng, 6, 10, 0, 0, 0.1),
                class_ce(rng, 5, 12, 4, 6, 0.25),
                class_ce(rng, 3, 300, 0, 0, 0.1),
            ],
            "distill": [
                distill(rng, 6, 10, 10, 0, 0, 2.0, 1.0, True),
                distill(rng, 5, 12, 9, 3, 5, 4.0, 0.5, False),
                distill(rng, 3, 300, 300, 0, 0, 1.0, 2.0, False),
            ],
            "anchor": anchor(rng, 21),
            "fisher": fisher(rng, 21),
            "image_prep": [
                image_prep(rng, "train.crop", 4, 9, 8, 3, 8, (9, 8), resized=False, pad=3, **rgb),
                image_prep(
                    rng, "gray.crop", 3, 9, 8, 1, 5, (6, 5), resized=False, mean=[0.1307],
                    std=[0.3081], flip=0.0,
                ),
                image_prep(
                    rng, "train.resized", 4, 15, 12, 3, 8, (7, 10), resized=True, **rgb, **ranges
                ),
                # wider than any ratio allows and never small: the box in the middle
                image_prep(
                    rng, "wide.resized", 3, 4, 17, 3, 5, (6, 6), resized=True,
                    scale=(0.9375, 1.0), ratio=(0.75, 1.25), **rgb,
                ),
            ],
        },
    )


if __name__ == "__main__":
    main()
