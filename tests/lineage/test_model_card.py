"""The card of a model: written when it is published, no content of it, and given away under a name and a licence."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenkit.artifacts import CARD, damage, read_manifest
from qwenkit.lineage.model_card import MARK, card_to_give, model_card
from tests.errors.desk import call, raise_family


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    raise_family(folder)
    return folder / "runs/family"


def test_every_model_is_published_with_its_card(run: Path) -> None:
    assert sorted(path.parent.name for path in run.glob(f"*/{CARD}")) == ["base", "chat", "pmp"]
    for node, kind in (("base", "AutoModelForCausalLM"), ("pmp", "AutoModelForSequenceClassification")):
        text, manifest = (run / node / CARD).read_text(), read_manifest(run / node)
        assert f"# {node}\n" in text and manifest.headline in text and f'{kind}.from_pretrained("PATH")' in text
        assert "Chats are rendered in the style `chatml`" in text and ("vllm serve" in text) == (node == "base")
        assert CARD not in manifest.files
    text = (run / "chat" / CARD).read_text()
    for node in ("chat", "base", "tokenizer"):
        manifest = read_manifest(run / node)
        assert f"| {node} | {manifest.kind} | {manifest.digest[:12]} | {manifest.headline} |" in text
    assert "* base (seed 1): `seq_length = 32, batch_size = 2," in text and "hidden_size = 16" in text
    assert "clip" not in text, "a default is no news"


def test_a_card_is_no_content(run: Path, tmp_path: Path) -> None:
    """Its owner may write on: nothing is damaged, and nothing runs again."""
    path = run / "base" / CARD
    before = path.read_text()
    path.write_text(before + "mine")
    assert damage(run / "base") == []
    path.unlink()
    assert damage(run / "base") == []
    path.write_text(before)
    assert model_card(run / "base") == before, "the same words wherever it is written"


def test_it_is_given_away_under_a_name_and_a_licence(run: Path) -> None:
    here = (run / "chat" / CARD).read_text()
    given = card_to_give(run / "chat", "me/parrot", "apache-2.0")
    assert given is not None and given.startswith("---\nlicense: apache-2.0\n")
    assert "# parrot\n" in given and "Licence: apache-2.0." in given and "No licence is stated" not in given
    plain = card_to_give(run / "chat", "me/chat")
    assert plain == here and (run / "chat" / CARD).read_text() == here


def test_words_of_the_owners_are_sent_as_they_are(run: Path) -> None:
    path = run / "pmp" / CARD
    before = path.read_text()
    path.write_text(before.replace(MARK, "mine"))
    assert card_to_give(run / "pmp", "me/pmp") is None
    code, _, err = call(f"push {run / 'pmp'} me/pmp --license mit --dry-run")
    assert (code, err.splitlines()[1:]) == (2, ["  hint: write the licence there, and leave --license out"])
    path.write_text(before)
