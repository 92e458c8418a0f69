"""How good the vectors are: similarity, retrieval, closeness to the teacher, thresholds."""
