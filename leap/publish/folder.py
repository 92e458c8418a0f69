"""The folder to release: files of this tree, their names on the Hub, checksums."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from leap.errors import UsageError

SUMS = "SHA256SUMS"
CARD = "model_card.md"  # in this tree, whose README.md is for people who work on it; README.md on the Hub
ONNX = "onnx"
ENTRIES = ".eval_results"  # one YAML file a benchmark, which the Hub shows on the model's page
RESTORE = "restore it from version control, or from the output of train_leap.py"
REQUIRED = {
    "config.json": RESTORE,
    "model.safetensors": RESTORE,
    "configuration_leap.py": RESTORE,
    "modeling_leap.py": RESTORE,
    "tokenizer.json": RESTORE,
    "tokenizer_config.json": RESTORE,
    "modules.json": RESTORE,
    "sentence_bert_config.json": RESTORE,
    "1_Pooling/config.json": RESTORE,
    CARD: "make it with `python -m eval card`",
    "README.md": "restore it from version control",
    "LICENSE": "restore it from version control",
}
NOT_TAKEN = (CARD, "README.md")  # on the Hub the one is the other
# Tokenizers of some students have these too.
OPTIONAL = ("vocab.txt", "special_tokens_map.json", "added_tokens.json")
# The target of a Markdown link that leads to a file beside the card.
RELATIVE_LINK = re.compile(r"\]\((?![a-z]+:|#|/)([^)#\s]+)")


@dataclass(frozen=True)
class File:
    """A file to release.

    Attributes:
        path: its name in the repository of the Hub.
        size: in bytes.
        sha256: in hex.
    """

    path: str
    size: int
    sha256: str


def check_required(root: Path) -> None:
    """Raise a UsageError that names a required file which `root` lacks, and how to get it."""
    for name, remedy in REQUIRED.items():
        _check(root / name, remedy)


def collect(root: Path, card: str, *, with_onnx: bool) -> dict[str, Path]:
    """Files copied from the tree: name on the Hub -> file.

    Args:
        root: the tree, itself a model folder.
        card: the text of the model card; the files that it links go along, and what its pages link or show.
        with_onnx: with the exported graphs.

    Raises:
        UsageError: a file is missing. The message names it and how to get it.
    """
    check_required(root)
    found = {name: root / name for name in REQUIRED if name not in NOT_TAKEN}
    found |= {name: root / name for name in OPTIONAL if (root / name).is_file()}
    found |= _below(root, [module for module in _module_folders(root) if (root / module).is_dir()])
    found |= _below(root, [ENTRIES])
    for name in _linked(root, card):
        if name.startswith(".."):
            raise UsageError(f"--folder: {CARD} or a page that it leads to leads out of the tree: {name}")
        _check(root / name, f"{CARD} leads to it: make it with `python -m eval card`, or restore it")
        found[name] = root / name
    # The card says that its figures and their provenance are there.
    results = {f"results/{path.name}": path for path in (root / "results").glob("*.json")}
    if not results:
        raise UsageError(f"--folder: {root / 'results'} holds no .json file: restore it from version control")
    found |= results
    if with_onnx:
        graphs = _below(root, [ONNX])
        if not any(name.endswith(".onnx") for name in graphs):
            raise UsageError(
                f"--folder: {root / ONNX} holds no .onnx file: make it with {export_command(root)}, or say "
                "--without_onnx"
            )
        found |= graphs
    return dict(sorted(found.items()))


def write(folder: Path, files: Mapping[str, Path], texts: Mapping[str, str]) -> list[File]:
    """Copy `files` and write `texts` and the checksums of all of them into an empty folder.

    Args:
        folder: is there, and empty.
        files: name in the folder -> file to copy.
        texts: name in the folder -> content.

    Returns:
        All of them, by name, the checksums' own file last.
    """
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode())
    released = [_file(folder, name) for name in sorted({*files, *texts})]
    # As sha256sum writes and, with --check, reads it.
    (folder / SUMS).write_text("".join(f"{file.sha256}  {file.path}\n" for file in released), newline="\n")
    return [*released, _file(folder, SUMS)]


def export_command(root: Path) -> str:
    """The command that makes the ONNX graphs, for error messages."""
    return f"`python -m leap.runtime export --model {root} --output {root / ONNX}`"


def listing(files: Iterable[File]) -> str:
    """The files as text: checksum, size, name, and the total."""
    files = list(files)
    lines = [f"{file.sha256}  {file.size:>12,}  {file.path}" for file in files]
    return "\n".join([*lines, f"{len(files)} files, {sum(file.size for file in files):,} bytes"])


def _linked(root: Path, card: str) -> Iterator[str]:
    """The files that the card leads to, and those that its Markdown pages lead to, relative to the tree."""
    for name in RELATIVE_LINK.findall(card):
        yield name
        if name.endswith(".md") and (root / name).is_file():
            below = RELATIVE_LINK.findall((root / name).read_text(encoding="utf-8"))
            yield from (os.path.normpath(Path(name).parent / link) for link in below)


def _module_folders(root: Path) -> Iterator[str]:
    """The folders that modules.json names; one without settings may be missing."""
    for module in json.loads((root / "modules.json").read_text(encoding="utf-8")):
        if module["path"]:
            yield module["path"]


def _below(root: Path, folders: Iterable[str]) -> dict[str, Path]:
    """All files below these folders of the tree, except hidden ones."""
    paths = (path for folder in folders for path in (root / folder).rglob("*"))
    return {
        path.relative_to(root).as_posix(): path
        for path in paths
        if path.is_file() and not path.name.startswith(".")
    }


def _check(path: Path, remedy: str) -> None:
    if not path.is_file():
        raise UsageError(f"--folder: {path} is missing: {remedy}")


def _file(folder: Path, name: str) -> File:
    content = (folder / name).read_bytes()
    return File(name, len(content), hashlib.sha256(content).hexdigest())
