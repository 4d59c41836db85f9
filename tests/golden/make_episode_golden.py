"""The loss of prototypes and the batches of few-shot tuning, by PyTorch.

Writes tests/golden/episode.json:

  proto_ce       by case: settings, features, labels (-100: ignored, -1: a query without label), and
                 loss, count, hits, dfeatures, logits (null: class without support), prediction of
                 F.cosine_similarity with the class means and F.cross_entropy(reduction="sum"),
                 episode by episode, in double
  few_shot_prep  by case: settings, images, index; y of DiffAugment (P>M>F, hushell/pmf_cvpr22) with
                 hone's random numbers on images resized by torch.nn.functional.interpolate
                 (bilinear, no antialias) and normalised, in double
"""

import platform

import numpy as np
import torch
import torch.nn.functional as F

from golden_util import GOLDEN, f9, f9s, hash_name, rng_make, rng_words, write_json

IGNORED, UNLABELLED = -100, -1


# --- loss -----------------------------------------------------------------------------------


def episode(x, labels, support, ways, scale, offset):
    """loss, count, hits, logits, prediction; x [rows, width], with gradient."""
    classes = sorted(set(labels[:support]) - {IGNORED})
    prototypes = torch.stack(
        [x[:support][np.array(labels[:support]) == c].mean(dim=0) for c in classes]
    )
    loss, count, hits, logits, prediction = 0.0, 0, 0, [], []
    for row, label in zip(x[support:], labels[support:]):
        if label == IGNORED:
            logits.append([0.0] * ways)
            prediction.append(-1)
            continue
        z = scale * (F.cosine_similarity(row[None], prototypes, dim=1, eps=1e-8) + offset)
        all_z = [None] * ways
        for c, v in zip(classes, z.tolist()):
            all_z[c] = v
        logits.append(all_z)
        prediction.append(classes[int(z.argmax())])
        if label == UNLABELLED:
            continue
        loss = loss + F.cross_entropy(z[None], torch.tensor([classes.index(label)]))
        count += 1
        hits += prediction[-1] == label
    return loss, count, hits, logits, prediction


def proto_ce(rng, replicas, support, queries, width, ways, scale, offset, missing=None):
    rows = support + queries
    x = rng.standard_normal((replicas * rows, width)).astype(np.float32)
    labels = []
    for g in range(replicas):
        own = [c for c in range(ways) if c != missing]
        y = [own[(i * 7 + g) % len(own)] for i in range(support)]
        y += [own[int(rng.integers(0, len(own)))] for _ in range(queries)]
        shift = np.stack([np.cos(np.arange(width) * (c + 1)) for c in y])
        x[g * rows :][:rows] += 0.7 * shift
        y[support - 1], y[support + 1], y[support + 2] = IGNORED, IGNORED, UNLABELLED
        labels += y
    t = torch.from_numpy(x).double().requires_grad_()
    out = [
        episode(t[g * rows :][:rows], labels[g * rows :][:rows], support, ways, scale, offset)
        for g in range(replicas)
    ]
    sum(o[0] for o in out).backward()
    return {
        "replicas": replicas,
        "support": support,
        "queries": queries,
        "width": width,
        "ways": ways,
        "scale": scale,
        "offset": offset,
        "features": f9s(torch.from_numpy(x)),
        "labels": labels,
        "loss": [f9(o[0].item()) for o in out],
        "count": [o[1] for o in out],
        "hits": [o[2] for o in out],
        "logits": [None if v is None else f9(v) for o in out for row in o[3] for v in row],
        "prediction": [p for o in out for p in o[4]],
        "dfeatures": f9s(t.grad.float()),
    }


# --- batches --------------------------------------------------------------------------------


def unit(word):
    return int(word >> 8) / 2**24


def below(word, n):
    return int(word) * n >> 32


def middle_box(height, width, out):
    """The largest box in the middle shaped like the output: top, left, height, width."""
    h, w = float(height), float(width)
    if width * out[0] <= height * out[1]:
        h = w * out[0] / out[1]
    else:
        w = h * out[1] / out[0]
    h = min(max(int(h + 0.5), 1), height)
    w = min(max(int(w + 0.5), 1), width)
    return (height - h) // 2, (width - w) // 2, h, w


def diff_augment(x, key, seed, step, row_offset):
    """DiffAugment(x, ["color", "translation"], 0.9) of x [n, c, h, w], with hone's numbers."""
    words = rng_words(rng_make(seed, step, key), row_offset + x.size(0), 12)
    batch, words = words[0, 8:], words[row_offset:]
    if not unit(batch[0]) < 0.9:
        return x
    if unit(batch[1]) < 0.5:
        x = torch.flip(x, dims=(3,))

    def draw(column):
        v = torch.tensor([unit(w) for w in words[:, column]], dtype=x.dtype)
        return v[:, None, None, None]

    x = x + (draw(0) - 0.5)
    mean = x.mean(dim=1, keepdim=True)
    x = (x - mean) * (draw(1) * 2) + mean
    mean = x.mean(dim=[1, 2, 3], keepdim=True)
    x = (x - mean) * (draw(2) + 0.5) + mean

    most = [int(s * 0.125 + 0.5) for s in x.shape[2:]]
    down = torch.tensor([below(w, 2 * most[0] + 1) - most[0] for w in words[:, 4]])
    right = torch.tensor([below(w, 2 * most[1] + 1) - most[1] for w in words[:, 5]])
    n, r, q = torch.meshgrid(*(torch.arange(s) for s in (x.size(0), *x.shape[2:])), indexing="ij")
    r = torch.clamp(r + down[:, None, None] + 1, 0, x.size(2) + 1)
    q = torch.clamp(q + right[:, None, None] + 1, 0, x.size(3) + 1)
    return F.pad(x, [1, 1, 1, 1]).permute(0, 2, 3, 1)[n, r, q].permute(0, 3, 1, 2)


def few_shot_prep(rng, name, count, height, width, channels, support, out, seeds, mean, std):
    images = rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    index = rng.integers(0, count, len(seeds) * support)
    index[1] = -1
    step, row_offset = 9, 2
    top, left, h, w = middle_box(height, width, out)
    y = []
    for g, seed in enumerate(seeds):
        own = index[g * support :][:support]
        x = torch.from_numpy(images[own]).permute(0, 3, 1, 2).double()
        x = x[:, :, top : top + h, left : left + w]
        x = F.interpolate(x, size=out, mode="bilinear", align_corners=False) / 255
        x = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        both = torch.stack((x, diff_augment(x, hash_name(name), seed, step, row_offset)))
        both[:, torch.from_numpy(own < 0)] = 0
        y.append(both.permute(0, 1, 3, 4, 2))
    return {
        "name": name,
        "count": count,
        "height": height,
        "width": width,
        "channels": channels,
        "support": support,
        "out": list(out),
        "seeds": seeds,
        "step": step,
        "row_offset": row_offset,
        "mean": mean,
        "std": std,
        "images": images.ravel().tolist(),
        "index": index.tolist(),
        "y": f9s(torch.stack(y).float()),
    }


def main():
    rng = np.random.default_rng(12)
    rgb = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    write_json(
        GOLDEN / "episode.json",
        {
            "made_by": "tests/golden/make_episode_golden.py",
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__.split("+")[0],
            },
            "proto_ce": [
                proto_ce(rng, 1, 11, 8, 9, 5, 10.0, 0.0),
                proto_ce(rng, 2, 8, 6, 7, 4, 4.0, -0.5, missing=1),
                proto_ce(rng, 1, 45, 6, 5, 40, 2.5, 0.25),
            ],
            "few_shot_prep": [
                few_shot_prep(rng, "up", 4, 5, 5, 3, 2, (12, 12), [5, 6, 7, 8], **rgb),
                few_shot_prep(rng, "down", 3, 20, 15, 3, 4, (9, 10), [3], **rgb),
                # seed 3 leaves the batch as it is
                few_shot_prep(rng, "gray", 3, 8, 8, 1, 4, (8, 8), [2, 3], [0.13], [0.31]),
            ],
        },
    )


if __name__ == "__main__":
    main()
