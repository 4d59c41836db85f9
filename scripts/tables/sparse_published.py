"""Published figures that stand beside the tables of sparse.sh, as spec/sparse.md section 4 quotes
them. They are of other models and data, mostly accuracies: shapes to compare, not numbers. What the
authors' papers say but the specification could not check (SpIEL's own tables, SMT's for LLaMA-7B,
13B and 2-7B, SPEFT, GASDU, GMT and GaLLoP beyond their abstracts) is not here."""

INTRODUCTION = "Published, on other models and data (accuracy in %, higher is better):\n"

PUBLISHED = {
    "T1": INTRODUCTION
    + """
| tuned on, average of | model | full | LoRA | DoRA | S2FT | SMT, 0.71 % | LIFT | source |
|---|---|---:|---:|---:|---:|---:|---:|---|
| commonsense-170k, 8 tasks | LLaMA-2-7B | 83.53 | 81.25 | 81.80 | 83.22 | - | 84.66 | LIFT, arXiv 2506.00772, table 1 |
| | LLaMA-3-8B | 86.64 | 83.46 | 85.04 | 86.16 | 86.8 | 87.88 | LIFT, table 1; SMT's repository |
| Math-10k, 7 tasks | LLaMA-3.2-1B | 68.66 | 67.98 | 67.98 | 66.26 | - | 69.02 | LIFT, table 2 |
| | LLaMA-3.2-3B | 76.45 | 75.71 | 75.59 | 75.58 | - | 77.06 | LIFT, table 2 |
| | LLaMA-2-7B | 72.79 | 72.93 | 72.42 | 73.10 | - | 73.74 | LIFT, table 2 |
| | LLaMA-3-8B | 80.18 | 79.44 | 79.92 | 80.87 | - | 81.78 | LIFT, table 2 |

GSM8K trained directly (LIFT, table 14), LLaMA-3.2-3B: full 44.50, SpIEL 43.76, LIFT 46.46.
""",
    "T2": INTRODUCTION
    + """
| budget, rank of LoRA | 16 | 32 | 64 | 128 | 256 | source |
|---|---:|---:|---:|---:|---:|---|
| LLaMA-3-8B, commonsense: LoRA | 76.2 | 81.9 | 83.5 | 83.2 | 82.6 | LIFT, arXiv 2506.00772, tables 8, 9 |
| S2FT | 81.1 | 85.0 | 86.2 | 83.8 | 82.8 | |
| LIFT | 86.9 | 87.9 | 87.2 | 84.2 | 83.7 | |
| LLaMA-2-7B, math: LoRA | 70.9 | 71.7 | 72.8 | 72.9 | 72.2 | |
| LIFT | 70.9 | 71.1 | 72.7 | 73.7 | 73.7 | |
""",
    "T3": INTRODUCTION
    + """
| LLaMA-2-7B | GSM8K, 1 epoch | extended | ViGGO, 1 epoch | extended | source |
|---|---:|---:|---:|---:|---|
| full fine-tuning | 32.3 | 38.8 | 82.1 | 95.0 | RoSA's repository (IST-DASLab/RoSA) |
| 41 M: LoRA, rank 16 | 28.4 | 37.8 | 90.5 | 95.8 | |
| RoSA, rank 8, 0.3 % | 29.2 | 37.5 | 94.5 | 97.1 | |
| sparse alone, 0.6 % | 26.2 | 29.5 | 72.6 | 89.8 | |
| 82 M: LoRA, rank 32 | 29.6 | 36.2 | 87.0 | 96.8 | |
| RoSA, rank 16, 0.6 % | 32.2 | 38.6 | 95.2 | 97.1 | |
| sparse alone, 1.2 % | 21.9 | 29.9 | 45.8 | 95.7 | |
| 164 M: LoRA, rank 64 | 27.4 | 35.5 | 76.9 | 95.0 | |
| RoSA, rank 16, 1.8 % | 32.8 | 38.4 | 95.1 | 96.5 | |
| sparse alone, 2.4 % | 29.6 | 37.2 | 92.3 | 95.7 | |
""",
    "T4": """Published: LLaMA-7B in bf16, fp32 AdamW, 1 x 2048 tokens, GiB (song-wx/SIFT); in
brackets with checkpointing.

| | weights | gradients | states | activations | sum |
|---|---:|---:|---:|---:|---:|
| full fine-tuning | 12.55 | 12.55 | 50.21 | 35.72 (0.81) | 111.0 (76.1) |
| SIFT, 5 % | 12.55 | 0.63 | 2.51 | 35.72 (0.81) | 51.4 (16.5) |
""",
    "T5": """Published: Llama-3.2-3B, MetaMathQA, 20,000 samples, batch 4, L40S (result files of the
method comparison in huggingface/peft, as of August 2026).

| method | trained, M | GSM8K, % | Wikipedia loss rises by | peak GB | train s | file MiB |
|---|---:|---:|---:|---:|---:|---:|
| full fine-tuning, lr 1e-5 | 3,213 | 47.2 | 0.030 | 36.2 | 2147 | 6128 |
| LoRA r32 (q, v) | 9.18 | 47.8 | 0.050 | 20.8 | 942 | 35.0 |
| LoRA r64, rslora | 18.35 | 51.3 | 0.111 | 21.0 | 966 | 70.0 |
| DoRA r32 | 9.29 | 46.9 | 0.051 | 22.9 | 1191 | 35.5 |
| SHiRA as r32, random mask, lr 3e-4 | 9.18 | 51.0 | 0.052 | 20.2 | 1003 | 105.0 |
""",
    "T6": INTRODUCTION
    + """
| | random | magnitude | gradient | SNIP | low-rank magnitude | source |
|---|---:|---:|---:|---:|---:|---|
| LLaMA-7B, commonsense | - | 77.0 | 76.6 | 77.4 | - | SHiRA, table 2 |
| LLaMA-2-7B, math, blocks of 4x4 | - | 72.64 | 71.83 | - | 73.72 | LIFT, arXiv 2506.00772 |

On MRPC the support picked by gradients is far above a random one at small budgets, and equal at
large ones (SIFT's repository).
""",
    "T7": """Published: LIFT on LLaMA-2-7B, math: elements 73.74, blocks of 4x4 73.72 (arXiv 2506.00772);
SMT works with blocks of 256x256 (LLaMA-3-8B, commonsense, 0.71 %: 86.8; its repository).
""",
    "T8": """Published: dynamic masks bring no substantial gain over static ones (SPEFT, abstract,
arXiv 2412.13488); intervals of 50 to 1000 steps all beat never refreshing, medium ones are best
(LIFT, arXiv 2506.00772).
""",
    "T9": """Published: after tuning a 3B model on math, LIFT keeps more than 5 points above full
fine-tuning and 12 above LoRA on the source domain, commonsense (arXiv 2506.00772). T5 has the rise
of the Wikipedia loss in PEFT's comparison.
""",
    "T10": """Published: no split that could stand here. S2FT claims 1.5 to 2.7 times less latency than
full fine-tuning, SparseLoRA 1.6 times against LoRA on LLaMA-3-8B, math (their reviews and code).
""",
}
