"""Figures published in the paper (arXiv 2605.01058v1), for comparison with ours.

STS-B test Spearman; wall-clock on one NVIDIA L4, a batch leaving together once its last row has converged.
"""

PUBLISHED = {
    "STS-B, all-MiniLM-L12-v2": 0.831,
    "no L_exit": {
        "full_depth": 0.777,
        "layers_run": 12.0,
        "soon": 0.0,
        "layer_ratio": 1.0,
        "cosine": {6: 0.162, 7: 0.215, 8: 0.285, 10: 0.547, 12: 1.0},
    },
    "LEAP": {
        "with_exits": 0.760,
        "with_exits_sd": 0.006,
        "layers_run": 6.7,
        "soon": 0.919,
        "layer_ratio": 1.80,
        "cosine": {6: 0.945, 7: 0.963, 8: 0.968, 10: 0.975, 12: 1.0},
        # theta: Spearman, layer ratio, mean exit layer
        "thetas": {0.90: (0.756, 2.58, 4.6), 0.95: (0.763, 1.80, 6.7), 0.99: (0.762, 1.08, 11.1)},
        # batch size: full depth and early exit in ms, speedup
        "time": {1: (8.46, 5.25, 1.61), 8: (11.51, 8.75, 1.32), 32: (13.14, 10.61, 1.24)},
    },
}

DIFFERENCES = (
    "The paper's teacher is BERT-large fine-tuned on NLI and its student MiniLM-L12-H384. Here the teacher "
    "has 6 layers and the student's 12 start as its halves: at first its last layer is the teacher's.",
    "A 12-layer student that leaves at layer 6 costs what the 6-layer teacher costs: the layer ratio is "
    "against a depth that this teacher does not need.",
    "The paper trains on about 1.5 million pairs for 10 epochs, these runs on the texts named above.",
    "At theta 0.90 the paper has a mean exit layer of 4.6, below its own l_min of 6; here l_min is always 6.",
    "Times are of another machine: only ratios compare.",
)
