"""A tiny checkpoint with a tokenizer, and tiny data sets on disk, for the tests of eval/ and of the demo."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from eval.quality.text_sets import RETRIEVAL, SIMILARITY
from modeling_leap import LeapModel

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = (
    "a the cat dog bird fish man woman sat ran sings plays guitar piano on under mat tree in rain sun".split()
)

# The cosines of successive layers of conftest's tiny model lie around it: texts leave at several layers.
RULE = {"exit_threshold": 0.5, "min_exit_layer": 2}
# The released model's rule: one test, after layer 1, and who has converged lands in layer 5.
LEAP_RULE = {"exit_threshold": 0.5655, "min_exit_layer": 1, "max_exit_layer": 1, "landing_layer": 5}

PAIRS = [
    ("a cat sat on the mat", "the cat sat on a mat", 4.8),
    ("a dog ran in the rain", "a dog ran under the tree", 3.0),
    ("the man plays guitar", "a woman plays piano", 2.2),
    ("the bird sings", "a fish", 0.4),
    ("a man ran", "the man ran in the sun", 3.9),
    ("the woman sings in the rain", "a dog sat", 0.2),
]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, in the form of BERT's."""
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def save_tiny(folder: Path, model: LeapModel) -> Path:
    """Write `model` and the tiny tokenizer as a checkpoint."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_pairs(path: Path) -> Path:
    """Write PAIRS as a CSV of sentence pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{first},{second},{score}" for first, second, score in PAIRS]
    path.write_text("\n".join(["sentence1,sentence2,score", *rows]) + "\n")
    return path


# The query q1 is itself in the corpus, as in ArguAna.
CORPUS = [
    {"_id": "d1", "title": "cat", "text": "a cat sat on the mat"},
    {"_id": "d2", "title": "", "text": "a dog ran in the rain"},
    {"_id": "q1", "title": "", "text": "the man plays guitar"},
    {"_id": "d3", "title": "music", "text": ""},
]
QUERIES = [
    {"_id": "q1", "text": "the man plays guitar"},
    {"_id": "q2", "text": "the cat"},
    {"_id": "unjudged", "text": "a tree"},
]
QRELS = [("q1", "d2", 1), ("q2", "d1", 2), ("q2", "d3", 1)]


def write_beir(folder: Path) -> Path:
    """Write CORPUS, QUERIES and QRELS in BEIR's layout."""
    (folder / "qrels").mkdir(parents=True)
    _write_lines(folder / "corpus.jsonl.gz", CORPUS)
    _write_lines(folder / "queries.jsonl.gz", QUERIES)
    lines = [
        "query-id\tcorpus-id\tscore",
        *(f"{query}\t{document}\t{gain}" for query, document, gain in QRELS),
    ]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_data(folder: Path) -> Path:
    """Write a folder laid out as LEAP_DATA: pairs, retrieval sets and training lines."""
    for path in SIMILARITY.values():
        write_pairs(folder / path)
    for name in RETRIEVAL.values():
        write_beir(folder / "beir" / name)
    drawn = random.Random(0)
    (folder / "train").mkdir()
    for kind in ("sentences", "passages"):
        lines = [{"text": " ".join(drawn.choices(WORDS, k=9))} for _ in range(8000)]
        _write_lines(folder / "train" / f"{kind}-00.jsonl.gz", lines)
    return folder
