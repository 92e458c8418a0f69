"""Trained comparisons: ablations, baselines, seeds and the protocol of the paper."""
