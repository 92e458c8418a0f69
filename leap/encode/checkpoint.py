"""Is a checkpoint what it says it is: asked before anything is computed with it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedTokenizerBase

from leap.errors import UsageError, first_line
from modeling_leap import LeapModel


@contextmanager
def loading(argument: str, source: str) -> Iterator[None]:
    """Turn whatever a broken or hostile checkpoint makes other libraries raise into one line.

    Args:
        argument: the option to name in the error.
        source: the checkpoint, as it was asked for.

    Raises:
        UsageError: something was raised; it says what.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # torch, tokenizers, safetensors, json: each has types of its own
        raise UsageError(f"{argument}: cannot load {source!r}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if "ignore_mismatched_sizes" in str(error):  # all that transformers says in the error itself
        return "its weights have other shapes than its config.json says"
    if isinstance(error, OSError | ValueError):
        return first_line(error)
    return f"{type(error).__name__}: {first_line(error)}"  # "KeyError: 'x'" tells more than "'x'"


def check_code(config: Mapping[str, Any], trust_remote_code: bool = True) -> None:
    """Refuse code from anywhere but beside the checkpoint: a config can name another repository.

    Args:
        config: the content of config.json.
        trust_remote_code: whether what its `auto_map` names would run.

    Raises:
        ValueError: it names code elsewhere.
    """
    for name in (config.get("auto_map") or {}).values() if trust_remote_code else ():
        parts = str(name).split(".")
        if len(parts) != 2 or not all(part.isidentifier() for part in parts):
            raise ValueError(f"auto_map in its config.json names code elsewhere ({name!r}): not run")
    for key in ("attn_implementation", "_attn_implementation"):
        if "/" in str(config.get(key)):  # kernels of a Hub repository
            raise ValueError(f"{key} in its config.json names code elsewhere ({config[key]!r}): not run")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Refuse a tokenizer that is not the model's; without its files, transformers makes an empty one.

    Args:
        tokenizer: as it was loaded.
        vocab_size: ids that the model knows.

    Raises:
        ValueError: it knows no words, or ids that the model does not.
    """
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) <= len(set(tokenizer.all_special_tokens)):
        raise ValueError("it has no tokenizer: put tokenizer.json beside its weights")
    highest = max(vocabulary.values())
    if highest >= vocab_size:
        raise ValueError(f"its tokenizer has ids up to {highest}, its model {vocab_size} of them")


def check_weights(model: LeapModel, info: Mapping[str, Any]) -> None:
    """Refuse weights that are missing, left over, or no numbers.

    Args:
        model: as it was loaded.
        info: what `from_pretrained` says with `output_loading_info`.

    Raises:
        ValueError: they would give vectors, but not those of the checkpoint.
    """
    if info["missing_keys"]:
        # transformers would go on with random numbers in their place.
        raise ValueError(f"it lacks weights: {sorted(info['missing_keys'])[:3]} ...")
    surplus = sorted(key for key in info["unexpected_keys"] if "encoder.layer." in key)
    if surplus:
        raise ValueError(f"it holds layers that its config.json does not count: {surplus[:3]} ...")
    broken = [name for name, tensor in model.named_parameters() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"it holds weights that are not finite: {broken[:3]} ...")
    if not model.config.layer_norm_eps >= 0:
        raise ValueError(
            f"layer_norm_eps in its config.json must not be negative: {model.config.layer_norm_eps}"
        )
