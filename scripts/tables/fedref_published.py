"""Published figures that stand beside the tables of fedref.sh, as spec/fedref.md section 8 quotes
them: from the notebooks, figures and README of the authors' repository (TaehwanY98/Fed-Ref, commit
a9d66e7 of 20 January 2026 unless another one is named), not from the paper's typeset tables, which
were not available. One run each, without error bars. The released code is numerically FedAvg, and
two of its three baselines are FedAvg, too (spec/fedref.md sections 3 and 4)."""

WARNING = (
    "Authors' repository (TaehwanY98/Fed-Ref), other data, partitions and networks than ours: one"
    " run each, no error bars. Its FedRef, FedProx and FedOpt are numerically FedAvg, its FEMNIST"
    " and CINIC-10 are parted alike (iid labels).\n"
)

PUBLISHED = {
    "methods": WARNING
    + """
Best value over rounds, notebooks of January 2026 (commit a9d66e7):

| | FedAvg | FedProx | FedOpt | FedRef rho1 | rho3 | rho5 | rho7 |
|---|---:|---:|---:|---:|---:|---:|---:|
| FEMNIST accuracy (25 rounds) | .48274 | .48473 | .48446 | .48238 | .47935 | .47969 | .47947 |
| FEMNIST F1 | .55997 | .56132 | .56178 | .55969 | .55588 | .55776 | .55639 |
| CINIC-10 accuracy (100 rounds) | .27231 | .27206 | .27234 | .27260 | .27276 | .27236 | .27244 |
| CINIC-10 F1 | .28005 | .27950 | .27999 | .28018 | .28089 | .28039 | .27981 |

Rounds to a threshold that was derived from the methods' own results (bars of figures, +-1; January
2026):

| | thresholds | rounds |
|---|---|---|
| CINIC-10, loss | 2.1524 / 2.0782 / 2.0041 | all 30 / 54 / 99 |
| CINIC-10, accuracy | 23.13 / 25.17 / 27.21 % | all 46-47 / 67-68 / 99 |
| FEMNIST, loss | 5.118 / 4.624 / 4.129 | all 3 / 5 / 10 (rho5: 9 at the last) |
| FEMNIST, accuracy | 30.79 / 33.73 / 36.67 % | all 7 / 8 / 10, rho1 7 / 9 / 10, rho5 6 / 8 / 9 |

"Forgetting measure" zeta: the sum over the rounds of metric - last metric. It mostly measures how
slow a curve begins, and is not comparable with the forgetting above (January 2026):

| | FedAvg | FedProx | FedOpt | rho1 | rho3 | rho5 | rho7 |
|---|---:|---:|---:|---:|---:|---:|---:|
| CINIC-10 accuracy | -4.7848 | -4.7539 | -4.7781 | -4.8380 | -4.8556 | -4.8111 | -4.8177 |
| CINIC-10 F1 | -4.7382 | -4.6800 | -4.7206 | -4.7725 | -4.8507 | -4.7876 | -4.7374 |
| FEMNIST accuracy (11 rounds) | -1.5010 | -1.5196 | -1.5210 | -1.5269 | -1.5690 | -1.5013 | -1.5778 |
| FEMNIST F1 (11 rounds) | -1.7137 | -1.7433 | -1.7287 | -1.7524 | -1.7857 | -1.7232 | -1.7939 |
| FEMNIST accuracy (25 rounds) | -3.1604 | -3.1848 | -3.1971 | -3.0594 | -3.1649 | -3.2411 | -3.0855 |
| FEMNIST F1 (25 rounds) | -3.3535 | -3.3582 | -3.3881 | -3.2448 | -3.3462 | -3.4560 | -3.2683 |
""",
    "payload": """Authors' repository, November and December 2025 (commit decd2a8, 15 December):
"communication resource ratio" relative to FedRef = 1. How it was computed is not known; bytes of a
round are those of FedAvg and four more. Accuracies of all methods were 6-9 % (FEMNIST) and 9.7-10.0
% (CINIC-10, chance is 10 %) at that time.

| | FedAvg | FedProx | FedOpt |
|---|---:|---:|---:|
| FEMNIST | 1.83 | 2.0 | 1.33 |
| CINIC-10 | 2.0 | 2.0 | 2.0 |
| FeTS | 1.33 | 2.0 | 1.89 |
""",
    "segmentation": """Authors' repository, notebooks of January 2026 (commit a9d66e7), FeTS2022, 60
rounds. "Dice" is of probabilities that went through softmax, sigmoid and softmax; "HF95" is no
Hausdorff distance (spec/fedref.md section 7):

| | FedAvg | FedProx | FedOpt | FedRef rho1 | rho3 | rho5 | rho7 |
|---|---:|---:|---:|---:|---:|---:|---:|
| "Dice", best | .14159 | .14143 | .14149 | .14149 | .14149 | .14150 | .14141 |
| "HF95", best (lower is better) | 8.488 | 8.556 | 8.543 | 8.319 | 8.347 | 8.187 | 8.382 |
| zeta of Dice | -0.2199 | -0.2321 | -0.2661 | -0.2456 | -0.2456 | -0.2863 | -0.2779 |
| zeta of HF95 | -19.889 | -18.145 | -20.001 | -30.871 | -28.402 | -28.079 | -30.296 |
| its positive part (true forgetting) | 0 | 0.0003 | 0 | 0 | 0 | 1.004 | 0.006 |
| rounds to loss .8304 / .8202 / .8099 | 18/24/44 | 18/26/56 | 21/31/53 | 22/33/54 | 21/26/51 | 24/32/51 | 23/38/59 |
| to Dice 13.67 / 13.90 / 14.14 % | 18/24/45 | 18/26/58 | 21/31/55 | 21/33/53 | 21/26/52 | 24/30/50 | 23/37/58 |
| to HF95 8.831 / 8.694 / 8.556 | 29/34/51 | 33/39/58 | 34/39/59 | 34/40/46 | 29/38/48 | 34/38/42 | 39/45/51 |

README of July 2025 (commit a9e66d4), in the order FedAvg / FedProx / FedOpt / FedRef:

| | mIoU, % | Dice, % | HF95 |
|---|---|---|---|
| FeTS | 16.78 / 16.80 / 16.67 / 16.81 | 21.49 / 21.53 / 21.39 / 21.53 | 15.29 / 12.20 / 12.54 / 12.13 |
| DRIVE | 30.23 / 30.23 / 30.23 / 32.27 | 45.95 / 45.95 / 45.95 / 48.17 | 14.82 / 14.82 / 14.82 / 14.79 |
""",
    "time": """Authors' repository: no table of client times (as of 20 January 2026). The client's
code of FedRef is that of FedAvg.
""",
}
