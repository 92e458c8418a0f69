"""The library behind the programs: texts, encoding, distillation, the ONNX runtime, corpora, publishing."""

import os

# ONNX Runtime looks up a host of its maker's and writes an id of the device ten seconds after its first
# session, from 1.29 on. It reads this when it is imported, so it stands before every import of it here.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
