"""Local training of one client by PyTorch: kernels/client/client_cnn.h.

Writes tests/golden/client_cnn.json:

  net           sizes, as hn_client_cnn_net
  mean, std     by channel
  labels        [count]; byte i of the images [count, height, width, channels] is the upper one of
                2654435761 i modulo 2^32
  rows          image numbers [steps][batch], -1: padding
  lr            of each step
  cases         by name: mu, weight_decay, `after`: the values after all steps, `losses`: the mean
                loss of each step
  start         the values in hone's order: convolutions [out, kernel, kernel, in], inputs of fc1
                by row, column, channel
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from golden_util import GOLDEN, f9, f9s, versions, write_json

NET = dict(height=14, width=12, channels=2, steps=2, filters=[4, 8], kernel=3, pad=0, hidden=8,
           classes=5)
PADDED = NET | dict(height=9, width=8, channels=1, pad=1, steps=3, filters=[4, 8, 4])
FIVE = NET | dict(height=17, width=16, channels=3, kernel=5, filters=[8, 4])
COUNT = 20
ROWS = [[3, 7, 0, 19, -1, 4], [5, -1, -1, -1, -1, -1], [1, 2, 3, 4, 5, 6]]
LR = [0.1, 0.05, 0.2]
CASES = {"sgd": (0.0, 0.0), "proximal": (0.5, 0.01)}


class Cnn(nn.Module):
    def __init__(self, n):
        super().__init__()
        ins = [n["channels"]] + n["filters"][: n["steps"] - 1]
        self.conv = nn.ModuleList(
            nn.Conv2d(i, o, n["kernel"], padding=n["pad"]) for i, o in zip(ins, n["filters"]))
        h, w = n["height"], n["width"]
        for _ in range(n["steps"]):
            h, w = [(s + 2 * n["pad"] - n["kernel"] + 1) // 2 for s in (h, w)]
        self.fc1 = nn.Linear(h * w * n["filters"][n["steps"] - 1], n["hidden"])
        self.fc2 = nn.Linear(n["hidden"], n["classes"])

    def forward(self, x):
        for conv in self.conv:
            x = F.relu(F.max_pool2d(conv(x), 2))
        x = x.permute(0, 2, 3, 1).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


def flat(model):
    out = []
    for p in model.parameters():
        p = p.detach()
        out.append((p.permute(0, 2, 3, 1) if p.ndim == 4 else p).flatten())
    return torch.cat(out)


def train(n, images, labels, mean, std, mu, decay):
    torch.manual_seed(7)
    model = Cnn(n)
    start = [p.detach().clone() for p in model.parameters()]
    opt = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=decay)
    losses = []
    for rows, lr in zip(ROWS, LR):
        rows = [r for r in rows if r >= 0]
        x = (torch.from_numpy(images[rows]).float() / 255 - torch.tensor(mean)) / torch.tensor(std)
        loss = F.cross_entropy(model(x.permute(0, 3, 1, 2)), torch.from_numpy(labels[rows]))
        opt.zero_grad()
        (loss + sum(mu / 2 * ((p - s) ** 2).sum() for p, s in zip(model.parameters(), start))
         ).backward()
        opt.param_groups[0]["lr"] = lr
        opt.step()
        losses.append(f9(loss.item()))
    return losses, f9s(flat(model))


def net_of(n, seed):
    g = np.random.default_rng(seed)
    shape = (COUNT, n["height"], n["width"], n["channels"])
    images = (np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(2654435761)) >> np.uint32(24)
    images = images.astype(np.uint8).reshape(shape)
    labels = g.integers(0, n["classes"], COUNT)
    mean, std = [0.3, 0.5, 0.1][: n["channels"]], [0.3, 0.2, 0.4][: n["channels"]]
    torch.manual_seed(7)
    start = f9s(flat(Cnn(n)))
    cases = {}
    for name, (mu, decay) in CASES.items():
        losses, after = train(n, images, labels, mean, std, mu, decay)
        cases[name] = dict(mu=mu, weight_decay=decay, losses=losses, after=after)
    return dict(net=n, mean=mean, std=std, count=COUNT, labels=labels.tolist(), rows=ROWS, lr=LR, start=start, cases=cases)


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_json(GOLDEN / "client_cnn.json", {
        "versions": versions(),
        "plain": net_of(NET, 1),
        "padded": net_of(PADDED, 2),
        "five": net_of(FIVE, 3),
    })
