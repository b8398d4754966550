"""What `sft` reads beside its chats: the replay, and the tests that nothing may repeat."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qwenkit.records import write_jsonl
from qwenkit.stages.base import Input
from qwenkit.stages.sft import Config, clean, overlap, replay

ANSWER = "the seventh keeper of the northern light wrote down every ship that passed before dawn"


class Letters:
    """A tokenizer of one id a letter."""

    eot_id = 0

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


def replayed(tmp_path: Path, *texts: str, row: int = 8) -> tuple[list[Any], int]:
    write_jsonl(tmp_path / "text.jsonl", [{"id": n, "text": text} for n, text in enumerate(texts)])
    inputs = {"replay": Input("replay", tmp_path / "text.jsonl", "")}
    config = Config(model="m", data="d", row=row, replay_share=0.5)
    work: Any = SimpleNamespace(stream=lambda name: 1)
    return replay(Letters(), inputs, config, work, chat_tokens=1000)


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
