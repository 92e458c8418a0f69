"""Exported files for the libraries that do not run torch checkpoints, made once."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from eval.speed.peer_runtimes import OPENVINO_FILE, OPENVINO_INT8_FILE, STATIC_FOLDER, Peer, Sources
from leap.encode.encoder import Encoder, find_model
from leap.errors import UsageError, first_line

CALIBRATED_ON = 300  # texts, what nncf takes by default


@contextmanager
def sources_of(
    model: Encoder, teacher: Encoder, peers: Sequence[Peer], threads: int, samples: Sequence[str]
) -> Iterator[dict[str, Sources]]:
    """Paths of the two models, "leap" and "teacher"; exported files exist within the block.

    Args:
        model: LEAP.
        teacher: what it is compared with.
        peers: those to be run: nothing is exported that none of them needs.
        threads: of each.
        samples: texts that int8 takes its ranges from, where they are fixed beforehand.

    Raises:
        UsageError: a model cannot be exported.
    """
    length = min(model.max_length, teacher.max_length)
    with tempfile.TemporaryDirectory() as work:
        found = {}
        for name, encoder in (("leap", model), ("teacher", teacher)):
            folder, exported = _folder(encoder), Path(work) / name
            needs = {need for peer in peers if peer.model == name for need in peer.needs}
            exported.mkdir()
            for path in folder.glob("*.json"):  # of the tokenizer and the model
                shutil.copy(path, exported / path.name)
            if "onnx" in needs:
                _export_onnx(folder, exported / "onnx", ("exit",) if name == "leap" else ("full",))
            if {"openvino", "openvino-int8"} & needs:
                _export_openvino(folder, exported / OPENVINO_FILE)
            if "openvino-int8" in needs:
                _quantise_openvino(encoder, exported, samples[:CALIBRATED_ON])
            if "static" in needs:
                _distil_static(folder, exported / STATIC_FOLDER)
            found[name] = Sources(str(folder), str(exported), length, threads)
        yield found


def _folder(encoder: Encoder) -> Path:
    """The checkpoint on this disk."""
    found = find_model(encoder.name)
    return Path(found if Path(found).is_dir() else snapshot_download(found)).resolve()


def _export_onnx(folder: Path, output: Path, depths: Sequence[str]) -> None:
    from leap.runtime.export import export  # here: needs onnx

    try:
        export(folder, output, depths)
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"--peers: {str(folder)!r} cannot be exported: {first_line(error)}") from error


def _export_openvino(folder: Path, output: Path) -> None:
    """From torch, the way OpenVINO does it for users of transformers; weights stay float32."""
    import openvino
    import torch
    from transformers import BertModel

    network = BertModel.from_pretrained(
        folder, add_pooling_layer=False, dtype=torch.float32, use_safetensors=True
    ).eval()
    ids = torch.ones((2, 8), dtype=torch.int64)
    example = {"input_ids": ids, "attention_mask": ids, "token_type_ids": 0 * ids}
    with torch.no_grad():
        converted = openvino.convert_model(network, example_input=example)
    output.parent.mkdir()
    openvino.save_model(converted, output, compress_to_fp16=False)


def _quantise_openvino(encoder: Encoder, exported: Path, samples: Sequence[str]) -> None:
    """Weights and products in int8, calibrated on some texts, the way OpenVINO does it for transformers."""
    import nncf
    import openvino

    def tokenised(text: str) -> dict[str, Any]:
        batch = encoder.tokenizer(text, truncation=True, max_length=encoder.max_length, return_tensors="np")
        return dict(batch)

    found = nncf.quantize(
        openvino.Core().read_model(exported / OPENVINO_FILE),
        nncf.Dataset(list(samples), tokenised),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(samples),
    )
    openvino.save_model(found, exported / OPENVINO_INT8_FILE, compress_to_fp16=False)


def _distil_static(folder: Path, output: Path) -> None:
    """A table of token vectors in the model's own space, without the PCA that would reduce it."""
    from model2vec.distill import distill_from_model
    from transformers import AutoTokenizer, BertModel

    model = BertModel.from_pretrained(folder, use_safetensors=True).eval()
    found = distill_from_model(model, AutoTokenizer.from_pretrained(folder), pca_dims=None, device="cpu")
    found.save_pretrained(output)
