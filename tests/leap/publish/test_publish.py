"""`python -m leap.publish` against a Hub on 127.0.0.1: what it releases and refuses, what a break leaves.

What loads from the Hub, or is killed, runs in a process of its own.
"""

import hashlib
import io
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny_data
import torch
from fake_hub import READER, WRITER, FakeHub
from hub_machine import Machine, log_in
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from leap.errors import UsageError
from leap.publish.__main__ import main
from leap.publish.folder import SUMS
from leap.publish.hub import check_push
from leap.runtime import LeapEncoder
from modeling_leap import LeapModel

NAME = "leap/LEAP-MiniLM-L6"
COMMAND = ["-m", "leap.publish", "--repository", NAME]
WORDS = tiny_data.WORDS
TEXTS = [" ".join(WORDS[i : i + 1 + i % 7]) for i in range(len(WORDS))]
EXPECTED = """.eval_results/scifact.yaml .eval_results/sts12-sts.yaml .eval_results/stsbenchmark-sts.yaml
1_Pooling/config.json LICENSE README.md SHA256SUMS config.json configuration_leap.py docs/evidence.md
model.safetensors modeling_leap.py modules.json onnx/model.onnx onnx/ort_config.json results/front.json
results/latency-cpu.json results/peers-cpu.json results/peers-cpu.png results/retrieval-scifact.json
results/sts-STS12-test.json
results/sts-stsb-test-teacher.json results/sts-stsb-test.json results/train-whole.json
sentence_bert_config.json tokenizer.json tokenizer_config.json""".split()


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    """A Hub on which the repository has an older release, with a file that the new one has not."""
    with FakeHub() as hub:
        hub.commit(NAME, {".gitattributes": b"*.onnx filter=lfs\n", "pytorch_model.bin": b"old"})
        yield hub


@dataclass(frozen=True)
class Said:
    """How a call of the program ended, and what it printed."""

    status: int
    out: str
    err: str


def publish(hub: FakeHub, *arguments: object, token: str = WRITER) -> Said:
    """Call the program in this process, logged in at the tests' Hub."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        log_in(patch, hub, token)
        patch.setattr("time.sleep", lambda _seconds: None)  # the client waits longer before each attempt
        status = main([str(argument) for argument in arguments])
    return Said(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def published(hub: FakeHub, whole_tree: Path) -> Said:
    """What the program said as it released the whole tree."""
    said = publish(hub, "--repository", NAME, "--folder", whole_tree)
    assert said.status == 0, said.err
    assert not [text for text in (said.out, said.err, *_contents(whole_tree)) if WRITER in text]
    return said


def _contents(folder: Path) -> list[str]:
    """All files below a folder, and their names."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return [f"{path}\n{path.read_bytes().decode(errors='replace')}" for path in paths]


def test_the_folder_is_released_in_one_commit(
    hub: FakeHub, whole_tree: Path, published: Said, tmp_path: Path
) -> None:
    repository = hub.model(NAME)
    before, release = repository.commits[-2:]
    assert (before.title, release.title) == ("put", "Release")
    files = release.files
    assert sorted(files) == sorted([*EXPECTED, ".gitattributes"])
    assert not [path for path, content in files.items() if WRITER.encode() in content]
    for name in set(EXPECTED) - {"README.md", SUMS}:
        assert files[name] == (whole_tree / name).read_bytes(), name
    card = (whole_tree / "model_card.md").read_text()
    assert files["README.md"].decode() == card.replace("OWNER/LEAP-MiniLM-L4", NAME)
    assert f'MODEL = "{NAME}"' in files["README.md"].decode()

    # The list of checksums holds for everything but itself; sha256sum can read it.
    sums = dict(reversed(line.split("  ")) for line in files[SUMS].decode().splitlines())
    assert sums == {name: hashlib.sha256(files[name]).hexdigest() for name in EXPECTED if name != SUMS}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=tmp_path, check=True)

    *listed, total, url, revision = published.out.splitlines()
    assert [line.split()[2] for line in listed] == [name for name in sorted(EXPECTED) if name != SUMS] + [
        SUMS
    ]
    for line in listed:
        checksum, size, name = line.split()
        assert (checksum, int(size.replace(",", ""))) == (
            hashlib.sha256(files[name]).hexdigest(),
            len(files[name]),
        )
    assert total.startswith(f"{len(EXPECTED)} files, ")
    assert url == f"{hub.url}/{NAME}/commit/{release.oid}"
    assert revision == f'revision="{release.oid}"'


LOAD = """
import sys, torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

name, commit, out, longest, *texts = sys.argv[1:]
assert not any(module in sys.modules for module in ("modeling_leap", "configuration_leap"))
tokenizer = AutoTokenizer.from_pretrained(name, revision=commit)
model = AutoModel.from_pretrained(name, trust_remote_code=True, revision=commit).eval()
with torch.inference_mode():
    batch = tokenizer(texts, padding=True, truncation=True, max_length=int(longest), return_tensors="pt")
    output = model(**batch)
encoder = SentenceTransformer(name, trust_remote_code=True, revision=commit, device="cpu")
results = {"vectors": output.sentence_embedding, "layers": output.exit_layer}
results["unit vectors"] = encoder.encode(texts, convert_to_tensor=True, batch_size=len(texts))
save_file({name: tensor.clone() for name, tensor in results.items()}, out)
"""


def encode_locally(folder: Path, texts: list[str], max_length: int) -> tuple[Tensor, Tensor]:
    """Embeddings (N, H) and exit layers (N,) by the model in a folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.inference_mode():
        output = LeapModel.from_pretrained(folder).eval()(**batch)
    return output.sentence_embedding, output.exit_layer


def check_loading(machine: Machine, folder: Path, texts: list[str]) -> None:
    """Load what is on the Hub in a fresh process with an empty cache, and compare with the local folder."""
    assert not (machine.folder / "home").exists()
    out = machine.folder / "out.safetensors"
    commit = machine.hub.model(NAME).head.oid
    longest = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    done = machine.run("-c", LOAD, NAME, commit, out, longest, *texts, token=None, here=False)
    assert done.returncode == 0, done.stderr
    found = load_file(out)
    vectors, layers = encode_locally(folder, texts, longest)
    assert torch.equal(found["layers"], layers)
    assert len(layers.unique()) > 1
    torch.testing.assert_close(found["vectors"], vectors, atol=1e-6, rtol=0)
    unit = torch.nn.functional.normalize(vectors)
    torch.testing.assert_close(found["unit vectors"], unit, atol=1e-5, rtol=0)


def test_a_fresh_machine_gets_the_same_vectors(
    hub: FakeHub,
    whole_tree: Path,
    published: Said,
    tmp_path: Path,
    repo_root: Path,
) -> None:
    pytest.importorskip("sentence_transformers")
    check_loading(Machine(hub, tmp_path, repo_root), whole_tree, TEXTS)


# The encoder without torch, by name: of all files it fetches those of its runtime.
ENCODE = """
import sys
import numpy as np
from leap.runtime import LeapEncoder

name, revision, out, *texts = sys.argv[1:]
np.save(out, LeapEncoder.from_pretrained(name, revision=revision, threads=1).encode(texts))
"""


@pytest.mark.slow
@pytest.mark.real_weights
def test_this_repository_is_released_and_loaded(
    repo_root: Path, tmp_path: Path, train_texts: Callable[[int], list[str]]
) -> None:
    onnx_there = any((repo_root / "onnx").glob("*.onnx"))
    with FakeHub() as hub:
        publisher = Machine(hub, tmp_path / "publisher", repo_root)
        publisher.folder.mkdir()
        done = publisher.run(*COMMAND, *([] if onnx_there else ["--without_onnx"]))
        assert done.returncode == 0, done.stderr
        user = Machine(hub, tmp_path / "user", repo_root)
        user.folder.mkdir()
        check_loading(user, repo_root, train_texts(100))
        if onnx_there:
            out = user.folder / "out.npy"
            commit = hub.model(NAME).head.oid
            done = user.run("-c", ENCODE, NAME, commit, out, *train_texts(100), token=None)
            assert done.returncode == 0, done.stderr
            expected = LeapEncoder.from_pretrained(repo_root, threads=1).encode(train_texts(100))
            np.testing.assert_array_equal(np.load(out, allow_pickle=False), expected)


def test_what_breaks_off_leaves_the_old_revision(hub: FakeHub, whole_tree: Path) -> None:
    name = "leap/broken"
    hub.commit(name, {"config.json": b"old"})
    repository = hub.model(name)
    old = repository.head
    hub.large.clear()  # else the weights would not be sent again
    dropped: list[str] = []
    logins = 0

    def drops(method: str, path: str) -> bool:
        """In the first publication the weights break off, then the commit; the third is overtaken."""
        nonlocal logins
        logins += path == "/api/whoami-v2"
        if logins == 3 and path.endswith("/preupload/main"):
            hub.commit(name, {"config.json": b"somebody else's"})
            return False
        broken = {1: path.startswith("/storage/"), 2: path.endswith("/commit/main")}
        breaks = broken.get(logins, False)
        if breaks:
            dropped.append(f"{method} {path}")
        return breaks

    hub.drops = drops
    tokens = [WRITER, WRITER, WRITER, READER, "", "hf_unknown", "hf_unkn\u00f3wn"]
    try:
        said = [publish(hub, "--repository", name, "--folder", whole_tree, token=token) for token in tokens]
    finally:
        hub.drops = lambda _method, _path: False
    assert [one.status for one in said] == [2] * len(tokens)
    assert all(one.err.count("\n") == 1 for one in said)
    upload, commit, overtaken, reader, nobody, unknown, unheard_of = [one.err.rstrip() for one in said]
    for line in (upload, commit, overtaken):
        assert line.startswith(f"python -m leap.publish: error: --repository: cannot upload to {name!r} (")
        assert line.endswith("it is as it was, or has all of this: publish again")
    *uploads, commits = dropped
    assert len(uploads) > 1  # the client did try again
    assert all(asked.startswith("PUT /storage/") for asked in uploads)
    assert commits == f"POST /api/models/{name}/commit/main"
    assert "may only read" in reader
    for line in (nobody, unknown, unheard_of):
        assert "not logged in to the Hub: run `hf auth login` or set HF_TOKEN" in line
    assert [state.files for state in repository.commits[-2:]] == [
        {"config.json": b"old"},
        {"config.json": b"somebody else's"},
    ]
    assert repository.commits[-2] is old
    for token in filter(None, tokens):
        assert not [one for one in said if token in one.out or token in one.err]


def test_a_killed_upload_leaves_the_old_revision_and_can_be_repeated(
    hub: FakeHub, whole_tree: Path, tmp_path: Path, repo_root: Path
) -> None:
    name = "leap/killed"
    hub.commit(name, {"config.json": b"old"})
    repository = hub.model(name)
    old = repository.head
    machine = Machine(hub, tmp_path, repo_root)
    hub.large.clear()
    process = machine.start("-m", "leap.publish", "--repository", name, "--folder", whole_tree)

    def drops(method: str, path: str) -> bool:
        if method == "PUT":
            process.kill()
        return method == "PUT"

    hub.drops = drops
    try:
        process.communicate(timeout=300)
    finally:
        hub.drops = lambda _method, _path: False
    assert process.returncode == -9
    assert repository.head is old

    said = publish(hub, "--repository", name, "--folder", whole_tree)
    assert said.status == 0, said.err
    assert sorted(repository.head.files) == sorted(EXPECTED)
    assert [commit.title for commit in repository.commits[-2:]] == ["put", "Release"]


def test_dry_run_lists_and_asks_nobody(
    tree: Path, hub: FakeHub, published: Said, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tree.parent / "hub"
    arguments = ["--repository", NAME, "--folder", str(tree), "--output", str(output), "--dry-run"]
    assert main(arguments) == 0  # offline, by conftest.py
    *listed, last = capsys.readouterr().out.splitlines()
    assert listed == published.out.splitlines()[:-2]
    assert last == f"--dry_run: nothing was sent to {NAME}"
    written = {p.relative_to(output).as_posix(): p.read_bytes() for p in output.rglob("*") if p.is_file()}
    released = hub.model(NAME).head.files
    assert written == {name: released[name] for name in EXPECTED}

    assert main(arguments) == 0  # in the place of the earlier one; of nothing else
    capsys.readouterr()
    (output / "notes.txt").write_text("mine")
    assert main(arguments) == 2
    assert f"--output: {str(output)!r} holds 'notes.txt', and the whole" in capsys.readouterr().err
    assert (output / "notes.txt").read_text() == "mine"
    arguments[arguments.index(str(output))] = str(tree)
    assert main(arguments) == 2
    assert f"--output: {str(tree)!r} holds " in capsys.readouterr().err
    assert (tree / "model_card.md").is_file()


def test_a_token_that_a_library_quotes_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    def whoami(_self: object) -> None:
        raise RuntimeError(f"Illegal header value b'Bearer {WRITER}'. More of it.\nAnd more.")

    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr("huggingface_hub.HfApi.whoami", whoami)
    with pytest.raises(UsageError) as error:
        check_push("owner/name", "--repository")
    assert str(error.value).endswith("(Illegal header value b'Bearer ...')")


@pytest.mark.parametrize("name", ["LEAP-MiniLM-L6", "a/b/c", "le ap/x"])
def test_a_name_that_is_none(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--repository", name, "--dry_run"]) == 2
    assert f"--repository: {name!r} is not a name on the Hub" in capsys.readouterr().err
