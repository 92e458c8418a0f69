"""README.md and its neighbours say what is there: links, examples that run and are pinned, versions."""

import hashlib
import importlib.util
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from versions import PAIRS, TESTS

from eval.__main__ import COMMANDS
from leap.distill.objective import ObjectiveConfig
from leap.distill.options import TrainOptions

# The text that the Apache Software Foundation publishes as LICENSE-2.0.txt.
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LOADING = re.compile(r"(?:\.from_pretrained|SentenceTransformer)\((.*?)\)", re.DOTALL)


def examples(path: Path) -> list[str]:
    """The Python examples of a Markdown file, or of one in a Python string."""
    return EXAMPLE.findall(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name", ["README.md", "model_card.md", "eval/card/templates/card.md", "leap/distill/release.py"]
)
def test_every_example_pins_the_code_it_runs(repo_root: Path, name: str) -> None:
    calls = [call for example in examples(repo_root / name) for call in LOADING.findall(example)]
    assert calls
    for call in calls:
        assert "revision=" in call, call


@pytest.mark.real_weights
@pytest.mark.parametrize("library", ["transformers", "sentence_transformers", "leap"])
def test_examples_of_the_readme_run(repo_root: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not importlib.util.find_spec(library):
        pytest.skip(f"no {library}")
    if library == "leap" and not (repo_root / "onnx").is_dir():
        pytest.skip("no graphs: python -m leap.runtime export --model . --output onnx/")
    (example,) = [
        found
        for found in examples(repo_root / "README.md")
        if re.search(rf"^from {library} import", found, re.M)
    ]
    here, found = re.subn(
        r'^MODEL, REVISION = "OWNER/.*?", "COMMIT"', 'MODEL, REVISION = ".", "COMMIT"', example, flags=re.M
    )
    assert found == 1
    assert len(example.splitlines()) <= 8
    monkeypatch.chdir(repo_root)
    exec(compile(here, "README.md", "exec"), {"__name__": "readme"})


# Pages that other branches bring: take them out of here when they are merged.
PENDING = {"docs/corpora.md"}


def pages(repo_root: Path) -> list[Path]:
    """All pages for readers."""
    return [*repo_root.glob("*.md"), *(repo_root / "docs").glob("*.md")]


def test_links_into_the_tree_lead_somewhere(repo_root: Path) -> None:
    assert len(pages(repo_root)) > 8
    for page in pages(repo_root):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve()
            pending = path.relative_to(repo_root).as_posix() in PENDING
            assert path.exists() or pending, f"{page.name}: {target}"


def test_anchors_lead_to_headings(repo_root: Path) -> None:
    for page in pages(repo_root):
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", text):
            there = (page.parent / target).read_text(encoding="utf-8") if target else text
            lines = re.findall(r"^#+ (.*)$", there, re.MULTILINE)
            headings = {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}
            assert anchor in headings, f"{page.name}: {target}#{anchor}"


def test_versions_are_those_tested(repo_root: Path) -> None:
    section = (repo_root / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## Versions")[2]
    rows = re.findall(r"^\| (\d[\d.]*) \| (\d[\d.]*) \|", section.partition("\n## ")[0], re.MULTILINE)
    assert [":".join(row) for row in rows] == list(PAIRS)
    assert not [name for name in TESTS if not (repo_root / name).is_file()]


def test_evaluations_and_options_exist(repo_root: Path) -> None:
    for page in [*pages(repo_root), *(repo_root / "eval" / "card" / "templates").glob("*.md")]:
        if page.name != "CHANGELOG.md":  # which tells of what is gone, too
            named = re.findall(r"python -m eval ([a-z]\w*)", page.read_text(encoding="utf-8"))
            assert set(named) <= set(COMMANDS), page.name
    table = re.findall(r"^\| `--(\w+)`", (repo_root / "docs" / "training.md").read_text(), re.MULTILINE)
    assert {"data", "teacher"} <= set(table)
    known = {field.name for field in fields(TrainOptions)}
    known |= {field.name for field in fields(ObjectiveConfig)}
    assert set(table) <= known


def test_make_help_lists_every_target(repo_root: Path) -> None:
    text = (repo_root / "Makefile").read_text()
    (targets,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE)) == set(targets.split())


def test_citation_is_of_the_newest_version(repo_root: Path) -> None:
    citation = yaml.safe_load((repo_root / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (repo_root / "CHANGELOG.md").read_text(encoding="utf-8")
    version, date = re.search(r"^## \[(\d+\.\d+\.\d+)\] - (\S+)$", changes, re.MULTILINE).groups()
    assert (citation["version"], citation["date-released"]) == (version, date)
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    card = (repo_root / "model_card.md").read_text(encoding="utf-8")
    for author in citation["references"][0]["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in " ".join(card.split())


def test_licence_is_whole(repo_root: Path) -> None:
    assert hashlib.sha256((repo_root / "LICENSE").read_bytes()).hexdigest() == APACHE_2
