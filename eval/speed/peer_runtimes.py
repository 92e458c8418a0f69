"""Texts to vectors in each library compared, written as its users would: one function per library.

Imported by the process that measures a library and by the one that asks it to, so every library is imported
in the function that needs it: what another one takes of memory must not count as its own.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

# Texts -> (B, H) unit vectors, and the layer each text left at where the library tells it.
Encode = Callable[[list[str]], tuple[NDArray[np.float32], NDArray[np.int64] | None]]

FULL_DEPTH, EXITS = "full depth", "exits"
LOOKUP = "lookup"  # the precision of a table of word vectors: no network to race with


@dataclass(frozen=True)
class Sources:
    """Where the models are.

    Attributes:
        folder: the checkpoint, as transformers reads it.
        exported: what was exported of it, see `eval.speed.peer_exports`.
        max_length: tokens a text is cut to.
        threads: of the CPU.
    """

    folder: str
    exported: str
    max_length: int
    threads: int


@dataclass(frozen=True)
class Peer:
    """A way to run one of the two models.

    Attributes:
        title: in tables.
        model: which of the two.
        precision: of weights and matrix products; or `LOOKUP`.
        packages: import name -> what to install, of all that it needs.
        needs: what has to be exported for it, of "onnx", "openvino", "openvino-int8" and "static".
        load: makes an `Encode` for each variant: "full depth", for LEAP "exits" too.
    """

    title: str
    model: Literal["teacher", "leap"]
    precision: Literal["float32", "int8", "lookup"]
    packages: dict[str, str]
    needs: tuple[str, ...]
    load: Callable[[Sources], dict[str, Encode]]

    @property
    def variants(self) -> tuple[str, ...]:
        """The keys of what `load` returns."""
        return (FULL_DEPTH, EXITS) if self.model == "leap" else (FULL_DEPTH,)


def _variants(encode: Callable[..., Any], leap: bool = False) -> dict[str, Encode]:
    """Full depth and, of LEAP, the rule of its config."""
    return {FULL_DEPTH: partial(encode, exit_threshold=None), EXITS: encode} if leap else {FULL_DEPTH: encode}


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)


def _sentence_transformers(leap: bool) -> Callable[[Sources], dict[str, Encode]]:
    def load(sources: Sources) -> dict[str, Encode]:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(sources.threads)
        model = SentenceTransformer(sources.folder, device="cpu", trust_remote_code=leap)
        model.max_seq_length = sources.max_length
        # encode() gives vectors alone, and calls forward() itself, by which it passes hooks over.
        network, outputs = model[0].auto_model, []
        forward = network.forward

        def watched(**arguments: Any) -> Any:
            outputs.append(forward(**arguments))
            return outputs[-1]

        if leap:
            network.forward = watched

        def encode(texts: list[str], **rule: Any) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
            vectors = model.encode(texts, batch_size=len(texts), normalize_embeddings=True, **rule)
            return vectors, outputs.pop().layers_run.numpy() if leap else None

        return _variants(encode, leap)

    return load


def _transformers(leap: bool) -> Callable[[Sources], dict[str, Encode]]:
    def load(sources: Sources) -> dict[str, Encode]:
        import torch
        from torch.nn.functional import normalize
        from transformers import AutoModel, AutoTokenizer

        torch.set_num_threads(sources.threads)
        tokenizer = AutoTokenizer.from_pretrained(sources.folder)
        how = {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": leap}
        model = AutoModel.from_pretrained(sources.folder, **how).eval()

        def encode(texts: list[str], **rule: Any) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
            batch = tokenizer(
                texts, padding=True, truncation=True, max_length=sources.max_length, return_tensors="pt"
            )
            with torch.inference_mode():
                output = model(**batch, **rule)
                if leap:
                    return normalize(output.sentence_embedding).numpy(), output.layers_run.numpy()
                mask = batch["attention_mask"].unsqueeze(-1).float()
                mean = (output.last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
                return normalize(mean).numpy(), None

        return _variants(encode, leap)

    return load


def _tokenize(sources: Sources) -> Callable[[list[str]], dict[str, NDArray[np.int64]]]:
    """The tokenizer alone, as programs without transformers use it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(sources.folder) / "tokenizer.json"))
    tokenizer.enable_truncation(sources.max_length)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"))

    def tokenize(texts: list[str]) -> dict[str, NDArray[np.int64]]:
        found = tokenizer.encode_batch(texts)
        return {
            "input_ids": np.array([row.ids for row in found], dtype=np.int64),
            "attention_mask": np.array([row.attention_mask for row in found], dtype=np.int64),
            "token_type_ids": np.array([row.type_ids for row in found], dtype=np.int64),
        }

    return tokenize


def _mean(hidden: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    """(B, H) unit vectors of the mean over tokens of `hidden` (B, T, H)."""
    weights = mask[:, None, :].astype(np.float32)  # a product of matrices is faster than a masked sum
    return _unit((weights @ hidden)[:, 0])


def _onnxruntime(file: str) -> Callable[[Sources], dict[str, Encode]]:
    def load(sources: Sources) -> dict[str, Encode]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = sources.threads
        session = onnxruntime.InferenceSession(
            str(Path(sources.exported) / file), options, providers=["CPUExecutionProvider"]
        )
        tokenize, names = _tokenize(sources), [entry.name for entry in session.get_inputs()]

        def encode(texts: list[str]) -> tuple[NDArray[np.float32], None]:
            batch = tokenize(texts)
            (hidden,) = session.run(["last_hidden_state"], {name: batch[name] for name in names})
            return _mean(hidden, batch["attention_mask"]), None

        return {FULL_DEPTH: encode}

    return load


def _openvino(file: str) -> Callable[[Sources], dict[str, Encode]]:
    def load(sources: Sources) -> dict[str, Encode]:
        import openvino

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": sources.threads,
            "INFERENCE_PRECISION_HINT": "f32",  # some processors would run bfloat16
        }
        model = openvino.Core().compile_model(str(Path(sources.exported) / file), "CPU", settings)
        request, tokenize = model.create_infer_request(), _tokenize(sources)
        names = [entry.any_name for entry in model.inputs]

        def encode(texts: list[str]) -> tuple[NDArray[np.float32], None]:
            batch = tokenize(texts)
            found = request.infer({name: batch[name] for name in names}, share_inputs=True)
            return _mean(found[0], batch["attention_mask"]), None

        return {FULL_DEPTH: encode}

    return load


def _fastembed(sources: Sources) -> dict[str, Encode]:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    name = "local/teacher"
    TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf=name),  # asked for; not read, as the files are given below
        dim=json.loads((Path(sources.exported) / "config.json").read_text())["hidden_size"],
        model_file=_FLAT,
    )
    model = TextEmbedding(name, specific_model_path=sources.exported, threads=sources.threads)

    def encode(texts: list[str]) -> tuple[NDArray[np.float32], None]:
        return np.stack(list(model.embed(texts, batch_size=len(texts)))), None

    return {FULL_DEPTH: encode}


def _static(sources: Sources) -> dict[str, Encode]:
    from model2vec import StaticModel

    model = StaticModel.from_pretrained(Path(sources.exported) / STATIC_FOLDER)

    def encode(texts: list[str]) -> tuple[NDArray[np.float32], None]:
        return _unit(model.encode(texts, max_length=sources.max_length)), None

    return {FULL_DEPTH: encode}


def _leap_encoder(precision: str) -> Callable[[Sources], dict[str, Encode]]:
    def load(sources: Sources) -> dict[str, Encode]:
        from leap.runtime import LeapEncoder

        encoder = LeapEncoder.from_pretrained(
            sources.exported, precision=precision, threads=sources.threads, max_length=sources.max_length
        )

        def encode(texts: list[str], **rule: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            found = next(encoder.encode_stream(texts, batch_size=len(texts), **rule))
            return found.embeddings, found.layers_run

        return _variants(encode, leap=True)

    return load


_TORCH_ST, _TORCH = "sentence-transformers, torch", "transformers, torch"
_SENTENCE = {"sentence_transformers": "sentence-transformers"}
_ONNX = {"onnxruntime": "onnxruntime", "tokenizers": "tokenizers", "onnx": "onnx"}
_FASTEMBED = {"fastembed": "fastembed", "onnx": "onnx", "onnxruntime": "onnxruntime"}
OPENVINO_FILE, OPENVINO_INT8_FILE = "openvino/model.xml", "openvino/model_int8.xml"
STATIC_FOLDER = "static"
_FLAT, _FLAT_INT8 = "onnx/model_full.onnx", "onnx/model_full_quantized.onnx"

_OPENVINO = {"openvino": "openvino"}
_STATIC = {"model2vec": "model2vec[distill]", "sklearn": "scikit-learn"}

PEERS = {
    "sentence-transformers": Peer(
        _TORCH_ST, "teacher", "float32", _SENTENCE, (), _sentence_transformers(False)
    ),
    "transformers": Peer(_TORCH, "teacher", "float32", {}, (), _transformers(False)),
    "onnxruntime": Peer("ONNX Runtime, fused", "teacher", "float32", _ONNX, ("onnx",), _onnxruntime(_FLAT)),
    "onnxruntime-int8": Peer(
        "ONNX Runtime, int8", "teacher", "int8", _ONNX, ("onnx",), _onnxruntime(_FLAT_INT8)
    ),
    "fastembed": Peer("fastembed", "teacher", "float32", _FASTEMBED, ("onnx",), _fastembed),
    "openvino": Peer("OpenVINO", "teacher", "float32", _OPENVINO, ("openvino",), _openvino(OPENVINO_FILE)),
    "openvino-int8": Peer(
        "OpenVINO, int8",
        "teacher",
        "int8",
        _OPENVINO | {"nncf": "nncf"},
        ("openvino-int8",),
        _openvino(OPENVINO_INT8_FILE),
    ),
    "static": Peer("model2vec, static embeddings", "teacher", LOOKUP, _STATIC, ("static",), _static),
    "leap-sentence-transformers": Peer(
        _TORCH_ST, "leap", "float32", _SENTENCE, (), _sentence_transformers(True)
    ),
    "leap-transformers": Peer(_TORCH, "leap", "float32", {}, (), _transformers(True)),
    "leap-onnx": Peer("`LeapEncoder`", "leap", "float32", _ONNX, ("onnx",), _leap_encoder("float32")),
    "leap-onnx-int8": Peer("`LeapEncoder`, int8", "leap", "int8", _ONNX, ("onnx",), _leap_encoder("int8")),
}
