"""The library behind the programs: texts, encoding, distillation, the ONNX runtime, corpora, publishing."""
