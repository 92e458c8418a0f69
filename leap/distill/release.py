"""The folder that a finished model goes into, whole or not at all."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedTokenizerBase

from leap.folders import write_folder
from modeling_leap import LeapModel

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
SENTENCE_CONFIG = "sentence_bert_config.json"
# As the tokenizers library writes it.
TRUNCATION = {"direction": "Right", "strategy": "LongestFirst", "stride": 0}
CALL_ARGUMENTS = ("max_length", "is_local", "local_files_only")
MODULES = [
    {
        "idx": 0,
        "name": "0",
        "path": "",
        "type": "sentence_transformers.models.Transformer",
        "kwargs": ["exit_threshold", "min_exit_layer", "max_layers"],
    },
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]

CARD = """---
{metadata}
---

# {title}

A sentence encoder of {layers} layers and {width} dimensions, distilled from {teacher} by LEAP
([arXiv 2605.01058](https://arxiv.org/abs/2605.01058)), recipe `{recipe}`. A text skips layers once its
embedding has converged.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}", trust_remote_code=True, revision="COMMIT")
embeddings = model.encode(["Hello!", "A longer sentence."])
```

`trust_remote_code=True` runs the two Python files of this repository. Read them, and put the full hash of the
commit that you have read in the place of `COMMIT`: later changes then do not run at your side.
`AutoModel.from_pretrained` of transformers takes the same arguments. Without them the weights load as a plain
BERT model of full depth.

**Exit rule.** {rule}
Per call, `encode(texts, exit_threshold=...)` sets another threshold, and `None` full depth.
"""


def write_model(
    folder: Path,
    model: LeapModel,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    dtype: str = "float32",
    card: str | None = None,
) -> None:
    """Write weights (safetensors), code, tokenizer, card and what sentence-transformers reads.

    Args:
        folder: replaced as a whole.
        model: its config holds the exit rule.
        tokenizer: the teacher's.
        max_length: tokens that texts are cut to, as every file says that holds a length.
        dtype: of the stored weights. float16 halves the download; the config still says float32, in which
            a model is loaded where nothing else is asked for: a CPU is slow in half precision.
        card: the content of README.md, as `model_card` makes it; None writes none.
    """
    weights = {name: tensor.to(getattr(torch, dtype)) for name, tensor in model.state_dict().items()}
    with write_folder(folder) as partial:
        model.save_pretrained(partial, state_dict=weights)
        tokenizer.save_pretrained(partial)
        _write_json(partial / "modules.json", MODULES)
        _write_json(partial / SENTENCE_CONFIG, {"do_lower_case": False})
        set_max_length(partial, max_length)
        pooling = {"word_embedding_dimension": model.config.hidden_size, "pooling_mode_mean_tokens": True}
        _write_json(partial / "1_Pooling" / "config.json", pooling)
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf-8")


def set_max_length(folder: Path, max_length: int) -> None:
    """State one length in tokens in every file of a saved model that some program takes it from.

    Tokenizers are saved with whatever the last call cut to, so the tokenizers library (fastembed,
    transformers.js), AutoTokenizer and sentence-transformers would each cut elsewhere and give other vectors.
    """
    keys = {TOKENIZER: "truncation", TOKENIZER_CONFIG: "model_max_length", SENTENCE_CONFIG: "max_seq_length"}
    for name, key in keys.items():
        if not (folder / name).is_file():  # there are tokenizers without a tokenizer.json
            continue
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        content[key] = max_length
        if name == TOKENIZER:
            content[key] = TRUNCATION | {"max_length": max_length}
        # What is of the last call, or of where it was loaded from, is no part of the model.
        _write_json(folder / name, {key: content[key] for key in content if key not in CALL_ARGUMENTS})


def model_card(
    model: LeapModel, teacher: str, recipe: str, repository: str | None = None, datasets: Sequence[str] = ()
) -> str:
    """README.md of a model: what the Hub's search and its widgets go by, how to load it, its exit rule.

    Args:
        model: its config holds the exit rule and the sizes.
        teacher: as on the command line; named as base model where it is a Hub id.
        recipe: name of the objective.
        repository: OWNER/NAME, where it is known; else the loading code names a folder.
        datasets: Hub ids of the training texts.
    """
    config = model.config
    on_hub = teacher.count("/") == 1 and not Path(teacher).exists() and teacher[0] not in "./~"
    metadata = ModelCardData(
        base_model=teacher if on_hub else None,
        base_model_relation="finetune" if on_hub else None,
        datasets=list(datasets) or None,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "early-exit", "custom_code", "arxiv:2605.01058"],
    )
    title = repository.split("/")[1] if repository else "LEAP sentence encoder"
    # What is no Hub id may be a path of this machine, which a reader elsewhere has no use for.
    linked = f"[{teacher}](https://huggingface.co/{teacher})" if on_hub else f"`{teacher.rpartition('/')[2]}`"
    content = CARD.format(
        metadata=metadata.to_yaml(),
        title=title,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        teacher=linked,
        recipe=recipe,
        name=repository or "PATH/TO/THIS/FOLDER",
        rule=_exit_rule(model),
    )
    return str(ModelCard(content))  # which parses the metadata: what the Hub would refuse fails here


def _exit_rule(model: LeapModel) -> str:
    """The rule of its config in a sentence."""
    config = model.config
    thresholds, patience, landing = config.exit_thresholds(), config.exit_patience, config.landing_layer
    if not thresholds:
        return "By its config all texts run all layers."
    values, places = set(thresholds.values()), ", ".join(map(str, thresholds))
    each = f"{values.pop():g}" if len(values) == 1 else ", ".join(f"{t:g}" for t in thresholds.values())
    before = f"{patience} layer{'s' if patience > 1 else ''} before"
    goes = f"skips to layer {landing} and runs from there to the end" if landing else "leaves the network"
    return (
        f"By its config a text {goes} once the mean of its tokens' states after layer {places} has a cosine "
        f"of at least {each} with that of {before} (layer 0 is the embeddings)."
    )


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
