"""What is imported, fetched, pinned and depended on."""

import ast
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tiny_data import RULE, save_tiny
from transformers import AutoModel, AutoTokenizer

from leap.distill.release import model_card
from leap.encode.encoder import encode, load_encoder
from modeling_leap import LeapModel

MakeModel = Callable[..., LeapModel]

# What `make test` installs.
REQUIREMENTS = ("requirements.txt", "requirements-runtime.txt", "requirements-dev.txt")
# Pinned by requirements.txt, so that results are reproduced; the installed package takes a range.
PINNED = {"torch"}
# All that the two files may import which run on the machines of the model's users.
HUB_FILES = {
    "configuration_leap.py": {"math", "collections.abc", "numbers", "typing", "transformers"},
    "modeling_leap.py": {
        "collections.abc",
        "contextlib",
        "dataclasses",
        "threading",
        "typing",
        "torch",
        "transformers",
        "transformers.utils",
        "transformers.masking_utils",
        "configuration_leap",
    },
}
# What could run other code, read or write files, or reach the network without an import.
FORBIDDEN = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "open",
    "input",
    "breakpoint",
    "getattr",
    "globals",
    "load",
}


@pytest.mark.parametrize("name", HUB_FILES)
def test_hub_files_can_do_nothing_but_compute(repo_root: Path, name: str) -> None:
    tree = ast.parse((repo_root / name).read_text())
    imported = {module for node in ast.walk(tree) for module in modules(node)}
    assert imported <= HUB_FILES[name]
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = {func.id for func in called if isinstance(func, ast.Name)}
    names |= {func.attr for func in called if isinstance(func, ast.Attribute) and func.attr != "eval"}
    assert not names & FORBIDDEN


def modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def tracked(repo_root: Path, pattern: str) -> list[Path]:
    """Files of this repository; without git, those on the disk that are nobody else's."""
    command = ["git", "ls-files", "-co", "--exclude-standard", pattern]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True)
    if done.returncode == 0:
        return [repo_root / line for line in done.stdout.splitlines() if (repo_root / line).is_file()]
    found = repo_root.rglob(pattern)
    return [path for path in found if not {".venv", ".whl", "runs"} & set(path.relative_to(repo_root).parts)]


def third_party(repo_root: Path, files: list[Path]) -> dict[str, Path]:
    """Package -> a file that imports it; of modules that are neither Python's nor this tree's."""
    own = {path.stem for path in tracked(repo_root, "*.py")} | {
        path.parent.name for path in tracked(repo_root, "*.py")
    }
    packages = packages_distributions()
    found = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                continue
            for name in {module.partition(".")[0] for module in modules(node)}:
                # A folder here may have the name of a package ("evaluate" has not): own modules go first.
                if name in sys.stdlib_module_names or name in own:
                    continue
                found[canonicalize_name(packages.get(name, [name])[0])] = file
    return found


def required(file: Path) -> Iterator[Requirement]:
    """The requirements that a file names; those of files that it includes are not followed."""
    for line in file.read_text().splitlines():
        named = line.partition("#")[0].strip()
        if named and not named.startswith("-"):
            yield Requirement(named)


def stated(repo_root: Path, *names: str) -> set[str]:
    files = [repo_root / name for name in names]
    return {canonicalize_name(found.name) for file in files for found in required(file)}


def project_file(repo_root: Path) -> dict[str, Any]:
    """The content of pyproject.toml."""
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    return tomllib.loads((repo_root / "pyproject.toml").read_text())


def test_every_import_is_a_requirement(repo_root: Path) -> None:
    everything = {path.name for path in repo_root.glob("requirements*.txt")}
    found = third_party(repo_root, tracked(repo_root, "*.py"))
    assert {"torch", "pytest", "hypothesis", "pyyaml"} <= set(found), "the test finds no imports"
    missing = {name: str(path) for name, path in found.items() if name not in stated(repo_root, *everything)}
    assert not missing


def imported_at_once(repo_root: Path, start: Path) -> set[str]:
    """Modules that `start` imports when it is imported, those of this tree followed."""
    found: set[str] = set()
    waiting, seen = [start], set()
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        for statement in ast.parse(file.read_text()).body:
            inner = statement.body if isinstance(statement, ast.Try) else [statement]
            for module in (module for node in inner for module in modules(node)):
                found.add(module.partition(".")[0])
                path = repo_root / module.replace(".", "/")
                waiting += [
                    name for name in (path.with_suffix(".py"), path / "__init__.py") if name.is_file()
                ]
    return found


def test_training_needs_no_development_package(repo_root: Path) -> None:
    found = imported_at_once(repo_root, repo_root / "train_leap.py")
    assert {"accelerate", "modeling_leap", "leap"} <= found
    assert not {"datasets", "evaluate"} & found  # slow to load, and needed for the Hub and for STS alone
    own = {path.stem for path in repo_root.iterdir()}
    packages = packages_distributions()
    needed = {
        canonicalize_name(packages[name][0])
        for name in found - own - set(sys.stdlib_module_names)
        if name in packages
    }
    assert needed <= stated(repo_root, "requirements.txt")


def test_every_requirement_has_a_bound_and_a_reason(repo_root: Path) -> None:
    for file in repo_root.glob("requirements*.txt"):
        for line in file.read_text().splitlines():
            if line.strip() and not line.startswith(("#", "-")):
                requirement = Requirement(line.partition("#")[0].strip())
                assert requirement.specifier, f"{file.name}: {line}"
                # pytest alone speaks for itself.
                assert requirement.name == "pytest" or line.partition("#")[2].strip(), f"{file.name}: {line}"


LOADERS = {"from_pretrained", "SentenceTransformer", "pipeline", "snapshot_download", "hf_hub_download"}


def unpinned(text: str) -> Iterator[str]:
    """Calls in fenced Python code that load from the Hub and name no revision."""
    for code in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name not in LOADERS or any(keyword.arg == "revision" for keyword in node.keywords):
                continue
            source = node.args[0] if node.args else None
            here = isinstance(source, ast.Constant) and str(source.value).startswith((".", "/", "PATH/"))
            if not here:
                yield ast.unparse(node)


def test_every_example_pins_a_revision(repo_root: Path, make_tiny_model: MakeModel) -> None:
    # The templates are held to it by what is rendered from them.
    pages = {path: path.read_text() for path in tracked(repo_root, "*.md") if "template" not in path.name}
    assert {repo_root / "README.md", repo_root / "model_card.md"} <= set(pages)
    model = make_tiny_model(exit_threshold=0.9)
    pages[Path("a trained model's card")] = model_card(model, "owner/teacher", "leap", "owner/student")
    found = {str(path): list(unpinned(text)) for path, text in pages.items()}
    assert not {path: calls for path, calls in found.items() if calls}


@pytest.mark.parametrize(
    ("call", "count"),
    [
        ('AutoModel.from_pretrained("owner/name")', 1),
        ("SentenceTransformer(MODEL, trust_remote_code=True)", 1),
        ('AutoModel.from_pretrained("owner/name", revision=REVISION)', 0),
        ('AutoModel.from_pretrained(".")', 0),
    ],
)
def test_what_pinning_means(call: str, count: int) -> None:
    assert len(list(unpinned(f"Text.\n\n```python\nmodel = {call}\n```\n"))) == count


def test_offline_nothing_is_fetched(
    make_tiny_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(save_tiny(tmp_path / "tiny", make_tiny_model(**RULE)))
    asked: list[object] = []

    def refuse(*arguments: object, **_more: object) -> None:
        asked.append(arguments)
        raise OSError("no network here")

    for owner, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo")):
        monkeypatch.setattr(owner, name, refuse)
    with pytest.raises(OSError, match="no network here"):
        socket.create_connection(("127.0.0.1", 9))
    assert asked, "the trap does not work"
    asked.clear()

    # conftest.py has set HF_HUB_OFFLINE=1.
    texts = ["a cat sat", "a dog"]
    encoders = [load_encoder(folder, device="cpu", trust_remote_code=trust) for trust in (False, True)]
    found = [encode(encoder, texts).embeddings for encoder in encoders]
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    tokens.pop("token_type_ids", None)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True, use_safetensors=True).eval()
    with torch.inference_mode():
        found.append(model(**tokens).sentence_embedding.numpy())
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5)
    with pytest.raises(OSError):  # what is not here is refused, not looked for
        AutoModel.from_pretrained("owner/name", trust_remote_code=True)
    assert not asked


def test_the_package_has_the_bounds_of_the_requirements(repo_root: Path) -> None:
    project = project_file(repo_root)["project"]
    lines = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        lines += extra
    packages = [requirement for requirement in map(Requirement, lines) if requirement.name != project["name"]]
    named: dict[str, list[Requirement]] = {}
    for file in repo_root.glob("requirements*.txt"):
        for requirement in required(file):
            named.setdefault(requirement.name, []).append(requirement)
    for package in packages:
        assert package.name in named, f"{package} is in no requirements file"
        for requirement in named[package.name]:
            if package.name in PINNED:
                (pin,) = requirement.specifier
                assert pin.operator == "==", requirement
                assert package.specifier.contains(pin.version), requirement
            else:
                assert requirement.specifier == package.specifier, requirement
    installed = {package.name for package in packages}
    assert stated(repo_root, "requirements.txt") <= {canonicalize_name(name) for name in installed}


def test_licences_are_listed_and_accepted(repo_root: Path) -> None:
    listed = (repo_root / "docs" / "licences.md").read_text()
    found = {canonicalize_name(name) for name in re.findall(r"^\| (\S+)", listed, re.MULTILINE)}
    assert stated(repo_root, *REQUIREMENTS) - {"pip-licenses"} <= found, "run `make licences`"
    accepted = project_file(repo_root)["tool"]["pip-licenses"]["allow-only"]
    assert not [words for words in accepted.split(";") if re.search(r"(?<!L)GPL|Affero|commercial", words)]
    pytest.importorskip("piplicenses")
    command = [sys.executable, "-m", "piplicenses"]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# What unpickles, unless it is told not to.
UNPICKLING = re.compile(r"\b(torch\.load|pickle|joblib|dill|cloudpickle|shelve|marshal)\b|allow_pickle=True")


def test_programs_ask_for_safetensors_and_unpickle_nothing(repo_root: Path) -> None:
    programs = [path for path in tracked(repo_root, "*.py") if "tests" not in path.parts]
    loading = 0
    for path in programs:
        text = path.read_text()
        tree = ast.parse(text)
        words = [
            node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom | ast.Attribute)
        ]
        for node in words:
            assert not UNPICKLING.search(ast.unparse(node)), f"{path}: {ast.unparse(node)}"
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            source = ast.unparse(node.func)
            if source in ("np.load", "numpy.load"):
                assert "allow_pickle=False" in ast.unparse(node), f"{path}: {ast.unparse(node)}"
            # Models of transformers; tokenizers and configs are JSON, our own encoders load these.
            if node.func.attr == "from_pretrained" and re.search(r"(Auto|Leap|Bert)Model\w*\.", source):
                loading += 1
                assert "use_safetensors" in text, f"{path}: {ast.unparse(node)}"
    assert loading >= 3, "the test finds no calls"
