"""Singular values and what the rank rules read from them, by PyTorch in fp64.

Writes tests/golden/rank.json, a list of cases:

  m, n          shape of the weights
  reference     float32 [m n] W_ref, row by row
  task          float32 [m n] W_task
  s             torch.linalg.svdvals of W_task - W_ref, the difference rounded to float32
  best          for some k: |Delta - its best approximation of rank k|_F, from torch.linalg.svd
  distance, cosine, effective_rank   of rank_rule.h
  k_energy, k_sum, k_reference       for each of `energies` and `eps`
"""

import numpy as np
import torch

from golden_util import GOLDEN, f9s, write_json

ENERGIES = [0.5, 0.8, 0.9, 0.95, 0.99]
EPS = [0.01, 0.05, 0.1, 0.3]
# (rows, columns, directions of the displacement, its size)
CASES = [(12, 20, 4, 0.2), (30, 9, 9, 0.05), (16, 27, 3, 1.0), (1, 10, 1, 0.1)]


def first(reached):
    """The first index at which it holds; the sums behind it hold as well."""
    return int(np.argmax(np.asarray(reached)))


def case(rng, m, n, directions, size):
    reference = rng.standard_normal((m, n)).astype(np.float32)
    decay = 0.5 ** np.arange(directions)
    moved = (rng.standard_normal((m, directions)) * decay) @ rng.standard_normal((directions, n))
    noise = 0.01 * rng.standard_normal((m, n))
    task = (reference + size * (moved / np.sqrt(directions) + noise) / np.sqrt(n)).astype(np.float32)
    delta = torch.from_numpy(task - reference).double()
    u, s, vt = torch.linalg.svd(delta, full_matrices=False)
    squares = s.numpy() ** 2
    norm = float(np.linalg.norm(reference.astype(np.float64)))
    sums = np.concatenate([[0], np.cumsum(squares)])
    rest = np.concatenate([np.cumsum(squares[::-1])[::-1], [0]])
    plain = np.concatenate([[0], np.cumsum(s.numpy())])
    share = squares / squares.sum()
    flat = [x.astype(np.float64).ravel() for x in (task, reference)]
    ranks = [k for k in (1, 2, 5) if k <= min(m, n)]
    best = [torch.linalg.norm(delta - (u[:, :k] * s[:k]) @ vt[:k]).item() for k in ranks]
    return {
        "m": m,
        "n": n,
        "reference": f9s(reference),
        "task": f9s(task),
        "s": s.tolist(),
        "best": [[k, e] for k, e in zip(ranks, best)],
        "distance": torch.linalg.norm(delta).item() / norm,
        "cosine": float(flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])),
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
        "k_energy": [first(sums >= t * sums[-1]) for t in ENERGIES],
        "k_sum": [first(plain >= t * plain[-1]) for t in ENERGIES],
        "k_reference": [first(rest <= (e * norm) ** 2) for e in EPS],
    }


def main():
    rng = np.random.default_rng(11)
    write_json(
        GOLDEN / "rank.json",
        {
            "made_by": "tests/golden/make_rank_golden.py",
            "versions": {"torch": torch.__version__.split("+")[0], "numpy": np.__version__},
            "energies": ENERGIES,
            "eps": EPS,
            "cases": [case(rng, *c) for c in CASES],
        },
    )


if __name__ == "__main__":
    main()
