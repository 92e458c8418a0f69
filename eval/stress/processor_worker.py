"""Encode texts one at a time with ONNX Runtime, in whichever Python runs this file; it needs no torch.

python processor_worker.py FOLDER TEXTS.json VECTORS.npz
"""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PRECISIONS = ("float32", "int8")

if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    from leap import LeapEncoder

    folder, texts, output = sys.argv[1:]
    texts = json.loads(Path(texts).read_text(encoding="utf-8"))
    found = {"machine": np.array(platform.machine()), "onnxruntime": np.array(version("onnxruntime"))}
    for precision in PRECISIONS:
        encoder = LeapEncoder.from_pretrained(folder, precision=precision, threads=1)
        rows = [encoder.encode(text, normalize_embeddings=False, return_exit_layers=True) for text in texts]
        found[f"{precision}_embeddings"] = np.stack([vector for vector, _ in rows])
        found[f"{precision}_exit_layers"] = np.array([layer for _, layer in rows])
    np.savez(output, **found)
