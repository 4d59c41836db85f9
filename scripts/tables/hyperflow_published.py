"""Published figures beside the tables of hyperflow.sh, as spec/hyperflow.md section 9 quotes them.
HyperFlow's own tables were not available: its cells are left blank, and no figure of it stands
here."""

# Mean and 95 % interval of 600 episodes, learning rate chosen by domain; order of hyperflow_cells'
# SOURCES and OTHERS. Source: the released results of P>M>F (hushell/pmf_cvpr22 @25bf65f).
PMF_META = (
    "73.52 +- 0.80",
    "92.17 +- 0.57",
    "89.49 +- 0.52",
    "91.04 +- 0.37",
    "85.73 +- 0.62",
    "79.43 +- 0.67",
    "74.99 +- 0.94",
    "95.30 +- 0.44",
    "89.85 +- 0.76",
    "59.69 +- 1.02",
)

PUBLISHED_NOTE = (
    "HyperFlow (arXiv 2504.15323): the paper's tables were not at hand; its cells stay blank until"
    " they are. P>M>F: hushell/pmf_cvpr22 @25bf65f, another backbone (DINO ViT-S, meta-trained,"
    " 128 x 128), the official class splits: an upper reference line, not a comparison."
)

PMF_CDFSL_NOTE = (
    "HyperFlow (arXiv 2504.15323): the paper's tables were not at hand; its cells stay blank until"
    " they are."
)
