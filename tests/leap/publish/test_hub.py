"""By Hub id, against a Hub on 127.0.0.1: push a trained model, load it, pin it, evaluate it, train on it.

What speaks with the Hub runs in a process of its own, as users start it: huggingface_hub reads where it is
once, on import, and in this process there is none.
"""

import importlib.util
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_data
import torch
from fake_hub import READER, WRITER, FakeHub
from hub_machine import Machine
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from eval.quality.sts import evaluate_sts
from leap.distill.options import parse
from leap.distill.release import model_card
from leap.encode.encoder import load_encoder
from leap.text.sets import load_sts
from modeling_leap import LeapModel

MakeModel = Callable[..., LeapModel]
Pushed = tuple[Path, subprocess.CompletedProcess[str]]
WORDS = tiny_data.WORDS
TEXTS = [" ".join(WORDS[i : i + 1 + i % 7]) for i in range(len(WORDS))]
TEXTS += [f"{first} {second}" for first in WORDS[:4] for second in WORDS[4:8]]
RULE = ["--exit_threshold", "0.4", "--min_exit_layer", "2"]


def train(machine: Machine, output: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Train for a few steps on the Hub's texts."""
    run = [
        "--data",
        "owner/texts",
        "--cache_dir",
        machine.folder / "cache",
        "--max_tokens",
        100,
    ]
    return machine.run("train_leap.py", *run, "--output_dir", machine.folder / output, *arguments)


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    """A Hub with a teacher and texts on it."""
    with FakeHub() as hub:
        lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
        hub.commit("owner/texts", {"train.jsonl": lines.encode()}, "datasets")
        yield hub


@pytest.fixture
def machine(hub: FakeHub, tmp_path: Path, repo_root: Path) -> Machine:
    """A machine that has loaded nothing yet."""
    return Machine(hub, tmp_path, repo_root)


@pytest.fixture(scope="module")
def pushed(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Pushed:
    """A student trained and pushed to owner/tiny, all by Hub ids: its folder, and what the program said."""
    trainer = Machine(hub, tmp_path_factory.mktemp("trainer"), repo_root)
    torch.manual_seed(0)
    sizes = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 40}
    config = LeapModel.config_class(
        **sizes, num_hidden_layers=4, num_attention_heads=4, initializer_range=0.2
    )
    hub.commit("owner/teacher", tiny_data.save_tiny(trainer.folder / "teacher", LeapModel(config)))
    done = train(trainer, "run", "--teacher", "owner/teacher", *RULE, "--push_to_hub", "owner/tiny")
    assert done.returncode == 0, done.stderr
    return trainer.folder / "run" / "model", done


def encode_locally(folder: Path, **rule: object) -> tuple[Tensor, Tensor]:
    """Embeddings (N, H) and exit layers (N,) of TEXTS by the model in a folder."""
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = LeapModel.from_pretrained(folder).eval()(**tokens, **rule)
    return output.sentence_embedding, output.exit_layer


def test_training_ends_in_one_commit_on_the_hub(hub: FakeHub, pushed: Pushed) -> None:
    folder, done = pushed
    repository = hub.model("owner/tiny")
    assert [commit.title for commit in repository.commits[1:]] == ["LEAP model"]
    assert done.stdout.split() == [f"{hub.url}/owner/tiny/commit/{repository.head.oid}"]
    local = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert repository.head.files == local
    needed = {
        "config.json",
        "model.safetensors",
        "configuration_leap.py",
        "modeling_leap.py",
        "tokenizer.json",
    }
    needed |= {"tokenizer_config.json", "modules.json", "1_Pooling/config.json", "README.md"}
    assert needed <= set(local)

    card = ModelCard(local["README.md"].decode())
    assert (card.data.base_model, card.data["base_model_relation"]) == ("owner/teacher", "finetune")
    assert (card.data.library_name, card.data.pipeline_tag) == (
        "sentence-transformers",
        "sentence-similarity",
    )
    assert card.data.datasets == ["owner/texts"]
    for said in (
        '"owner/tiny", trust_remote_code=True, revision=',
        "recipe `leap`",
        "0.4",
        "skips to layer 4",
        "after layer 2",
    ):
        assert said in card.text


SENTENCE_TRANSFORMERS = """
import sys
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

name, commit, out, *texts = sys.argv[1:]
encoder = SentenceTransformer(name, trust_remote_code=True, revision=commit, device="cpu")
rules = {"config": {}, "early": {"exit_threshold": -0.9}, "full": {"exit_threshold": None}}
save_file({key: encoder.encode(texts, convert_to_tensor=True, **rule) for key, rule in rules.items()}, out)
"""


@pytest.mark.skipif(not importlib.util.find_spec("sentence_transformers"), reason="no sentence-transformers")
def test_sentence_transformers_by_id(machine: Machine, pushed: Pushed) -> None:
    out = machine.folder / "out.safetensors"
    commit = machine.hub.model("owner/tiny").head.oid
    done = machine.run("-c", SENTENCE_TRANSFORMERS, "owner/tiny", commit, out, *TEXTS, token=None, here=False)
    assert done.returncode == 0, done.stderr
    results = load_file(out)
    for key, rule in (
        ("config", {}),
        ("early", {"exit_threshold": -0.9}),
        ("full", {"exit_threshold": None}),
    ):
        embeddings, _ = encode_locally(pushed[0], **rule)
        torch.testing.assert_close(results[key], torch.nn.functional.normalize(embeddings), atol=1e-5, rtol=0)


# Twice `python -m eval`; a process each would take as long again.
EVALUATE = """
import sys
from eval.__main__ import main

data, out = sys.argv[1:]
there = main(["sts", "--data", data, "--model", "owner/tiny", "--output", out])
sys.exit(there or main(["sts", "--data", data, "--model", "owner/absent"]))
"""


def test_evaluation_by_id(machine: Machine, pushed: Pushed) -> None:
    pairs, out = tiny_data.write_pairs(machine.folder / "pairs.csv"), machine.folder / "out.json"
    done = machine.run("-c", EVALUATE, pairs, out, token=None)
    assert done.returncode == 2, done.stderr
    found = json.loads(out.read_text())["figures"]
    figures = evaluate_sts(load_encoder(str(pushed[0])), load_sts(str(pairs)))
    assert found["exits"]["spearman"] == pytest.approx(figures["exits"]["spearman"])
    assert found["full_depth"]["spearman"] == pytest.approx(figures["full_depth"]["spearman"])
    assert "Traceback" not in done.stderr
    told = "python -m eval sts: error: --model: cannot load 'owner/absent'"
    assert done.stderr.splitlines()[-1].startswith(told), done.stderr


@pytest.mark.slow  # not minutes, but the other tests here take one already
def test_training_by_ids_from_a_stream(machine: Machine, pushed: Pushed) -> None:
    done = train(machine, "run", "--teacher", "owner/tiny", "--streaming", "--max_texts", 24)
    assert done.returncode == 0, done.stderr
    assert json.loads((machine.folder / "run" / "log.json").read_text())["run"]["texts"] == 24


CHECKS = """
import os, sys, huggingface_hub
from pathlib import Path
from leap.publish.hub import push
from train_leap import main

try:
    push(Path(sys.argv.pop(1)), "stranger/tiny", "--push_to_hub")
except ValueError as error:
    print(error)
for token in sys.argv.pop(1).split(","):
    os.environ.pop("HF_TOKEN")
    if token == "unreachable":
        huggingface_hub.constants.ENDPOINT = "http://127.0.0.1:9"
    os.environ["HF_TOKEN"] = "" if token == "none" else token
    try:
        main()
    except SystemExit as error:
        print(error)
"""


def test_what_cannot_be_pushed_is_said_before_anything_is_loaded(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    asked = len(machine.hub.requests)
    run = ["--data", "owner/texts", "--teacher", "owner/teacher", "--output_dir", tmp_path / "run"]
    tokens = f"none,hf_unknown,{READER},unreachable"
    done = machine.run("-c", CHECKS, tmp_path / "model", tokens, *run, "--push_to_hub", "owner/other")
    assert done.returncode == 0, done.stderr
    refused, *lines = done.stdout.splitlines()
    assert refused.startswith("--push_to_hub: cannot upload to 'stranger/tiny' (403")
    assert refused.endswith(f"try again by `hf upload stranger/tiny {tmp_path / 'model'}`")
    for line, reason in zip(lines, ("no token found", "Invalid", "only read", "refused"), strict=True):
        assert line.startswith("train_leap.py: error: --push_to_hub: ")
        assert reason in line
        assert "`hf auth login` or set HF_TOKEN" in line
    assert not [path for _, path in machine.hub.requests[asked:] if "owner/" in path]


@pytest.mark.parametrize(
    ("repository", "complaint"),
    [
        ("tiny", "'tiny' is not a name on the Hub: give OWNER/NAME"),
        ("a/b/c", "'a/b/c' is not a name on the Hub"),
        ("own er/tiny", "'own er/tiny' is not a name on the Hub"),
        ("owner/tiny", "`hf auth login` or set HF_TOKEN"),  # offline mode, which conftest.py sets
    ],
)
def test_where_it_cannot_be_pushed_to(
    repository: str,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    (tmp_path / "texts.txt").write_text("a cat\n")
    command = ["--data", str(tmp_path / "texts.txt"), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as error:
        parse("", [*command, "--push_to_hub", repository])
    assert str(error.value).startswith("train_leap.py: error: --push_to_hub: ")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_one_process_of_many_asks_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts.txt").write_text("a cat\n")
    command = ["--data", str(tmp_path / "texts.txt"), "--output_dir", str(tmp_path / "run")]
    monkeypatch.setenv("RANK", "1")
    assert parse("", [*command, "--push_to_hub", "owner/tiny"])[0].push_to_hub == "owner/tiny"


def test_card_of_a_model_that_is_on_no_hub(make_tiny_model: MakeModel) -> None:
    thresholds = [None, None, 0.9, None, 0.5, 0.5]
    model = make_tiny_model(exit_threshold=thresholds, min_exit_layer=3, exit_patience=2)
    card = ModelCard(model_card(model, "/home/me/teacher", "paper"))
    assert card.data.base_model is None
    assert "/home/me" not in card.content
    for said in (
        "`teacher`",
        "recipe `paper`",
        "PATH/TO/THIS/FOLDER",
        "after layer 3, 5",
        "0.9, 0.5",
        "2 layers before",
    ):
        assert said in card.text
    assert "all texts run all layers" in model_card(make_tiny_model(), "package:teacher", "leap")
