"""Loading encoders and encoding: order, batches, lengths, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_data
import torch

from leap.encode.encoder import Encoder, encode, encode_layers, find_model, load_encoder
from leap.errors import UsageError
from modeling_leap import LeapModel

TEXTS = [sentence for pair in tiny_data.PAIRS for sentence in pair[:2]]


@pytest.fixture
def folder(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> Path:
    return tiny_data.save_tiny(tmp_path / "tiny", make_tiny_model(**tiny_data.RULE))


def test_embeddings_come_in_the_order_of_the_texts_whatever_the_batch(folder: Path) -> None:
    encoder = load_encoder(str(folder))
    one_by_one = [encode(encoder, [text]).embeddings[0] for text in TEXTS]
    found = encode(encoder, TEXTS, batch_size=5)
    np.testing.assert_allclose(found.embeddings, one_by_one, atol=1e-5)
    assert found.exit_layers.min() < encoder.depth  # the model's own threshold is in force
    layers = encode_layers(encoder, TEXTS, batch_size=5)
    full = encode(encoder, TEXTS, batch_size=12, exit_threshold=None)
    assert layers.shape == (len(TEXTS), 6, 32)
    np.testing.assert_allclose(layers[:, -1], full.embeddings, atol=1e-5)
    assert set(full.exit_layers) == {6}


def test_a_pass_takes_few_tokens_on_a_cpu_and_gives_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_encoder(str(folder), device="cpu")
    expected = encode(encoder, TEXTS)
    passes: list[tuple[int, ...]] = []
    handle = encoder.model.register_forward_pre_hook(
        lambda _model, _args, call: passes.append(tuple(call["input_ids"].shape)), with_kwargs=True
    )
    monkeypatch.setattr("leap.encode.passes.PASS_TOKENS", 16)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    found = encode(encoder, TEXTS)
    handle.remove()
    np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-5)
    np.testing.assert_array_equal(found.exit_layers, expected.exit_layers)
    assert sum(rows for rows, _ in passes) == len(TEXTS)
    assert len(passes) > len(TEXTS) / 8


def test_a_model_in_training_is_encoded_without_dropout_and_left_in_training(folder: Path) -> None:
    encoder = load_encoder(str(folder))
    wanted = encode_layers(encoder, TEXTS)
    encoder.model.train()
    np.testing.assert_array_equal(encode_layers(encoder, TEXTS), wanted)
    assert encoder.model.training


def test_max_length_is_the_published_one_where_there_is_one(folder: Path) -> None:
    assert load_encoder(str(folder)).max_length == 40  # max_position_embeddings
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config | {"model_max_length": 9}))
    assert load_encoder(str(folder)).max_length == 9
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 8}))
    encoder = load_encoder(str(folder))
    assert encoder.max_length == 8
    long = "a cat sat on the mat"  # with the special tokens 8
    np.testing.assert_allclose(
        encode(encoder, [long + " under the tree"]).embeddings, encode(encoder, [long]).embeddings, atol=1e-6
    )


def test_half_precision_checkpoints_are_evaluated_in_float32(tmp_path: Path, tiny_model: LeapModel) -> None:
    folder = tiny_data.save_tiny(tmp_path / "half", tiny_model.half())
    assert load_encoder(str(folder)).model.dtype == torch.float32


def test_the_code_beside_the_checkpoint_gives_the_same(folder: Path) -> None:
    own = encode(load_encoder(str(folder)), TEXTS)
    remote = load_encoder(str(folder), trust_remote_code=True)
    assert type(remote.model) is not LeapModel
    np.testing.assert_array_equal(encode(remote, TEXTS).embeddings, own.embeddings)


def test_fingerprint_is_of_the_embeddings_and_not_of_the_exit_rule(
    folder: Path, make_tiny_model: Callable[..., LeapModel]
) -> None:
    encoder = load_encoder(str(folder))
    tokenizer = tiny_data.tiny_tokenizer()
    same = Encoder("same", make_tiny_model(exit_threshold=0.9), encoder.tokenizer, 40)
    other_weights = Encoder("other", make_tiny_model(seed=1), encoder.tokenizer, 40)
    other_length = Encoder("other", make_tiny_model(), tokenizer, 20)
    assert same.fingerprint() == encoder.fingerprint()
    assert encoder.fingerprint() not in (other_weights.fingerprint(), other_length.fingerprint())


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("./nowhere", "--model: './nowhere' is neither a folder nor a Hub id"),
        ("nobody/nothing", "--model: cannot load 'nobody/nothing'"),  # the tests are offline
        ("package:no_such_package", "--model: package 'no_such_package' is not installed"),
    ],
)
def test_no_such_model(source: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as error:
        load_encoder(source)
    assert "\n" not in str(error.value)


def test_a_package_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights_of_mine").mkdir()
    (tmp_path / "weights_of_mine" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_model("package:weights_of_mine") == str(tmp_path / "weights_of_mine" / "model")


def test_what_is_no_bert_or_lacks_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"num_hidden_layers": 7}))
    with pytest.raises(UsageError, match="lacks weights"):
        load_encoder(str(folder))
    path.write_text(json.dumps(config | {"model_type": "distilbert"}))
    with pytest.raises(UsageError, match="type 'distilbert': give a BERT encoder"):
        load_encoder(str(folder))
    path.unlink()
    with pytest.raises(UsageError, match=r"has no config\.json"):
        load_encoder(str(folder))


def test_a_batch_is_truncated(tiny_model: LeapModel) -> None:
    encoder = Encoder("tiny", tiny_model, tiny_data.tiny_tokenizer(), 6)
    texts = ["a cat sat on the mat", "a cat"]
    assert encoder.batch(texts)["input_ids"].shape == (2, 6)
    assert encoder.batch(texts, 4)["attention_mask"].tolist() == [[1, 1, 1, 1]] * 2
