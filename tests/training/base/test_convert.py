"""The base model's folder: its digest, and that it appears whole or not at all."""

from pathlib import Path

import pytest

from tests.training.tiny import make_model
from training.base import convert as converting
from training.base.convert import convert, digest_of, file_digest, model_digest
from training.base.loading import load_chat_tokens
from training.errors import ModelRefused


def test_the_default_model_is_a_chat_model_whose_end_token_closes_a_turn(model_dir: Path) -> None:
    tokens = load_chat_tokens(model_dir)
    assert tokens.end_id == 2
    assert tokens.text(tokens.prompt([{"role": "user", "content": "Hello"}])).endswith("user\nHello\nassistant\n")
    assert (model_dir / "digest.txt").read_text().strip() == model_digest(model_dir)


def test_a_model_put_there_by_hand_is_only_given_its_digest(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    (folder / "digest.txt").unlink()
    before = {path.name: file_digest(path) for path in folder.iterdir()}
    digest = convert(folder)
    assert (folder / "digest.txt").read_text() == digest + "\n"
    assert {path.name: file_digest(path) for path in folder.iterdir() if path.name != "digest.txt"} == before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"])
def test_the_digest_changes_with_every_file_that_decides_answers(tmp_path: Path, name: str) -> None:
    folder = make_model(tmp_path / "model")
    before = model_digest(folder)
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert model_digest(folder) != before


def test_the_digest_is_that_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"2")
    (tmp_path / "a").write_bytes(b"1")
    assert digest_of([tmp_path / "b", tmp_path / "a"]) == digest_of([tmp_path / "a", tmp_path / "b"])


def test_an_incomplete_model_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelRefused, match=r"lacks tokenizer\.json"):
        model_digest(folder)
    with pytest.raises(ModelRefused, match="no model"):
        model_digest(tmp_path)


def test_a_conversion_that_dies_leaves_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(source: Path, folder: Path, progress: object) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(converting, "_write_model", die)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_of_two_conversions_at_once_the_first_to_end_gives_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_beside_another(source: Path, folder: Path, progress: object) -> None:
        make_model(tmp_path / "model")
        make_model(folder)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(converting, "_write_model", write_beside_another)
    assert convert(tmp_path / "model") == model_digest(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
