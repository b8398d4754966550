"""What `sft` reads beside its chats: the replay, and the tests that nothing may repeat."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qwenkit.records import write_jsonl
from qwenkit.stages.base import Input
from qwenkit.stages.documents import split
from qwenkit.stages.pretrain import corpus_split, held_out_batches
from qwenkit.stages.sft import Config, clean, overlap, replay

ANSWER = "the seventh keeper of the northern light wrote down every ship that passed before dawn"


class Letters:
    """A tokenizer of one id a letter."""

    eot_id = 0

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


def replayed(tmp_path: Path, *texts: str, row: int = 8, corpus_held_out: float = 0.0) -> tuple[list[Any], int]:
    write_jsonl(tmp_path / "text.jsonl", [{"id": n, "text": text} for n, text in enumerate(texts)])
    inputs = {"replay": Input("replay", tmp_path / "text.jsonl", "")}
    config = Config(model="m", data="d", row=row, replay_share=0.5, corpus_held_out=corpus_held_out)
    work: Any = SimpleNamespace(stream=lambda name: 1)
    return replay(Letters(), inputs, config, work, chat_tokens=10_000)


def test_documents_too_long_to_replay_are_counted(tmp_path: Path) -> None:
    found, too_long = replayed(tmp_path, "short", "much longer than a row", "brief", "longer than a row")
    assert sorted(example.id for example in found) == ["replay/0", "replay/2"] and too_long == 2


def test_chats_that_hold_an_answer_of_a_test_are_dropped(tmp_path: Path) -> None:
    """Whichever field holds it: a test's answer, its choices, or a side of a comparison."""
    chats = [{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]}
             for text in (f"Well, {ANSWER}.", "another answer")]  # fmt: skip
    for test in ({"answer": ANSWER}, {"reference": ANSWER}, {"choices": ["no", ANSWER]}, {"chosen": ANSWER}, 
                 {"rejected": ANSWER}, {"prompt": ANSWER}, {"messages": chats[0]["messages"]}):  # fmt: skip
        write_jsonl(tmp_path / "tests.jsonl", [test])
        assert clean(chats, {"decontaminate": Input("decontaminate", tmp_path / "tests.jsonl", "")}) == (chats[1:], 1)


def test_what_is_left_of_the_tests_is_counted(tmp_path: Path) -> None:
    """Of what is trained on, wherever it came from: a replayed document is not dropped, so it is told."""
    write_jsonl(tmp_path / "tests.jsonl", [{"answer": ANSWER}])
    inputs = {"decontaminate": Input("decontaminate", tmp_path / "tests.jsonl", "")}
    chats = [{"messages": [{"role": "user", "content": "another question"}]}]
    (document,), _ = replayed(tmp_path, f"So {ANSWER}.", row=200)
    assert overlap(chats, [], Letters(), inputs) == {"overlap_13gram": 0}
    assert overlap(chats, [document], Letters(), inputs) == {"overlap_13gram": 1}
    assert overlap(chats, [document], Letters(), {}) == {}


def test_content_in_parts_and_calls_without_content_are_compared_too(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": f"Well, {ANSWER}."}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    user = {"role": "user", "content": [{"type": "text", "text": "?"}]}
    chats = [{"messages": [user, {"role": "assistant", "content": parts}]}, {"messages": [user, call]}]
    write_jsonl(tmp_path / "tests.jsonl", [chats[0]])
    assert clean(chats, {"decontaminate": Input("decontaminate", tmp_path / "tests.jsonl", "")}) == (chats[1:], 1)


def test_a_replay_leaves_out_what_the_base_model_was_measured_on(tmp_path: Path) -> None:
    """The same rule, seed and share as in pretraining."""
    texts = [f"text {n}" for n in range(200)]
    found, _ = replayed(tmp_path, *texts, row=64, corpus_held_out=0.3)
    inputs = Input("corpus", tmp_path / "text.jsonl", "")
    _, aside = corpus_split(inputs, 0.3, SimpleNamespace(stream=lambda name: 1))  # type: ignore[arg-type]
    measured = {f"replay/{row['id']}" for row in aside}
    assert len(found) == 200 - len(measured) and len(measured) > 30
    assert not measured & {example.id for example in found}
    assert all(example.content is None for example in found)


def test_copies_of_a_document_are_held_out_together() -> None:
    """What `upsample` makes of a document has its id; another id is another document, whatever signs are in it."""
    rows = [{"id": f"doc-{n}", "copy": copy} for n in range(100) for copy in range(3)]
    kept, aside = split(rows, 0.3, 1)
    assert 0 < len(aside) < 300 and not {row["id"] for row in kept} & {row["id"] for row in aside}
    assert all(split([{"id": f"user~{n}"} for n in range(100)], 0.3, 1))


def test_documents_without_a_source_are_measured() -> None:
    rows = [
        {"id": "a", "text": "one"},
        {"id": "b", "text": "two", "source": None},
        {"id": "c", "text": "x", "source": "web"},
    ]
    found = held_out_batches(Letters(), rows, row=16)
    assert {name: sum(batch.tokens for batch in batches) for name, batches in found.items()} == {"text": 8, "web": 2}
