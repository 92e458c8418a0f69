"""Evaluation of LEAP models: one module per question, a function and a command: `python -m eval NAME`."""

import leap  # noqa: F401  (keeps ONNX Runtime from sending telemetry, in what imports it here, too)
