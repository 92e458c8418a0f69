"""Imports point one way: programs and eval -> leap -> modeling_leap -> configuration_leap."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = {"train_leap", "encode_corpus", "app", "examples"}
HUB = {"modeling_leap", "configuration_leap"}
# What every sub-package of leap may use.
FLOOR = {"leap.errors", "leap.files", "leap.folders", "leap.arguments"}
# These import no other sub-package of leap: everything else may build on them.
ALONE = ("text", "encode")


def modules(node: ast.AST) -> list[str]:
    """The modules that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def imports(file: Path) -> Iterator[str]:
    """All modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        yield from modules(node)


def is_allowed(name: str, module: str) -> bool:
    """Whether the file `name` (relative to the root) may import `module`."""
    top, _, rest = module.partition(".")
    here = name.removesuffix(".py").split("/")
    if top in PROGRAMS:
        return False
    if here[0] == "configuration_leap":
        return top not in {"modeling_leap", "leap", "eval"}
    if here[0] == "modeling_leap":
        return top not in {"leap", "eval"}
    if here[0] != "leap":
        return True
    if top == "leap" and here[1] in ALONE:
        return module in FLOOR or rest.partition(".")[0] == here[1]
    return top != "eval"


def ours(repo_root: Path) -> list[Path]:
    """All Python files but the tests."""
    files = [*repo_root.glob("*.py"), *(repo_root / "examples").glob("*.py")]
    return files + [path for folder in ("leap", "eval") for path in (repo_root / folder).rglob("*.py")]


def test_imports_point_one_way(repo_root: Path) -> None:
    files = ours(repo_root)
    assert len(files) > 50, "the test finds no files"
    names = {path: path.relative_to(repo_root).as_posix() for path in files}
    wrong = {(name, module) for path, name in names.items() for module in imports(path)
             if not is_allowed(name, module)}  # fmt: skip
    assert not wrong


@pytest.mark.parametrize(
    ("name", "module", "allowed"),
    [
        ("leap/page/search.py", "eval.speed.timing", False),
        ("leap/page/search.py", "leap.encode.exits", True),
        ("leap/encode/exits.py", "leap.text.sets", False),
        ("leap/encode/exits.py", "leap.encode.encoder", True),
        ("leap/text/sets.py", "leap.errors", True),
        ("leap/distill/release.py", "train_leap", False),
        ("eval/quality/sts.py", "train_leap", False),
        ("eval/quality/sts.py", "leap.text.sets", True),
        ("modeling_leap.py", "leap.encode.exits", False),
        ("configuration_leap.py", "modeling_leap", False),
        ("train_leap.py", "leap.distill.release", True),
    ],
)
def test_what_one_way_means(name: str, module: str, allowed: bool) -> None:
    assert is_allowed(name, module) == allowed


def imported_at_once(repo_root: Path, start: str) -> set[str]:
    """Modules that `start` imports when it is imported, those of this tree followed."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        path = repo_root / name.replace(".", "/")
        file = next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)
        if name in found:
            continue
        found.add(name)
        for statement in ast.parse(file.read_text(encoding="utf-8")).body if file else ():
            inner = statement.body if isinstance(statement, ast.Try) else [statement]
            waiting += [module for node in inner for module in modules(node)]
    return {name.partition(".")[0] for name in found}


@pytest.mark.parametrize("module", ["leap", "leap.runtime", "leap.errors"])
def test_the_onnx_encoder_needs_no_torch(repo_root: Path, module: str) -> None:
    found = imported_at_once(repo_root, module)
    assert not {"torch", "transformers", "datasets", "modeling_leap"} & found


def test_leap_gives_the_encoder_and_nothing_else() -> None:
    import leap
    from leap.runtime import LeapEncoder

    assert leap.LeapEncoder is LeapEncoder
    with pytest.raises(AttributeError, match="no attribute 'Encoder'"):
        leap.Encoder  # noqa: B018
