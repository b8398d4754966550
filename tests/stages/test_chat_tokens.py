"""Chats and pairs to shards in chunks: any cut, any workers, any kill: the same tokens, and every row in the books."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwenkit.alignment import encode_pairs
from qwenkit.chat import load_tokenizer
from qwenkit.data.chats.datasets import prompt_of, read_chats, read_pairs
from qwenkit.data.documents import train_validation_split
from qwenkit.data.tokens.dataset import InMemoryTokenDataset
from qwenkit.errors import UserError
from qwenkit.records import Quarantine, write_jsonl
from qwenkit.stages import chat_tokens
from qwenkit.stages.base import Input
from qwenkit.stages.chat_tokens import OUTCOMES, Plan, Tokens, chat_examples, open_chats, open_pairs, tokenize_rows
from qwenkit.tokenizer import save_tokenizer, train_bpe
from tests.data.tokens.integrity import is_intact
from tests.kills import kill_often
from tests.stages.conftest import QUESTIONS, TEXTS, chat_rows

SIZE, SEED, ROW = 12_000, 7, 160
ANSWER = "the seventh keeper of the northern light wrote down every ship that passed before dawn"


def messages(*turns: tuple[str, str], system: str = "") -> list[dict[str, Any]]:
    head = [{"role": "system", "content": system}] if system else []
    return [*head, *({"role": r, "content": c} for turn in turns for r, c in zip(("user", "assistant"), turn))]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer; chats of some turns, of which some are too long, hold a test or cannot be read; pairs likewise."""
    folder = tmp_path_factory.mktemp("chats")
    save_tokenizer(train_bpe(TEXTS, 300, extras=1, multiple=8), folder / "tokenizer")
    luck = random.Random(1)

    def said() -> str:
        return " ".join(luck.choices(QUESTIONS, k=luck.choice([1, 2, 3, 3, 40])))

    chats = []
    for number in range(160):
        turns = [(said(), said() + (f" {ANSWER}" if number % 40 == 7 else "")) for _ in range(luck.randrange(1, 6))]
        chats.append({"messages": messages(*turns, system="garden" if number % 3 else "")})
        chats[-1] |= {"id": f"c{number}"} if number % 2 else {}
    lines = [json.dumps(row, ensure_ascii=False) for row in chats]
    lines[50:50] = ["{broken", '{"messages": [{"role": "user", "content": "no answer"}, {"role": "poet"}]}']
    (folder / "chats.jsonl").write_text("\n".join(lines) + "\n")
    write_jsonl(folder / "tests" / "t.jsonl", [{"prompt": "?", "answer": ANSWER}])
    pairs = [
        {"messages": messages(*[(said(), said())] * luck.randrange(3), (said(), ""))[:-1], "chosen": said(),
         "rejected": said() + "!"} for _ in range(120)
    ]  # fmt: skip
    pairs += [{**row, "rejected": row["chosen"]} for row in pairs[:9]]
    write_jsonl(folder / "pairs.jsonl", pairs)
    return folder


def inputs(desk: Path, data: str, tests: bool = True) -> dict[str, Input]:
    found = {"data": Input("data", desk / data, "1"), "model": Input("model", desk / "tokenizer", "2")}
    return {**found, "decontaminate": Input("decontaminate", desk / "tests", "3")} if tests else found


def plan(desk: Path, tests: bool = True, **given: Any) -> Plan:
    usual: dict[str, Any] = {"style": "own", "row": ROW, "too_long": "drop", "share": 0.2, "seed": SEED}
    return Plan(desk / "tokenizer", **{**usual, **given}, tests=desk / "tests" if tests else None)


def work(desk: Path, folder: Path, kind: str = "chats", workers: int = 1, tests: bool = False, **given: Any) -> Tokens:
    made = plan(desk, tests, **given)
    return tokenize_rows(kind, inputs(desk, f"{kind}.jsonl", tests), made, folder, workers=workers)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_tokens, "SPLIT_BYTES", SIZE)


def digest(folder: Path) -> str:
    """Over every file of the phase."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)).hexdigest()


@pytest.mark.parametrize("too_long", ["drop", "split", "truncate"])
def test_shards_are_the_examples_of_memory(desk: Path, tmp_path: Path, too_long: Any) -> None:
    """In the order of the file, and whatever happened to a row is counted once."""
    tokens = work(desk, tmp_path, tests=True, too_long=too_long)
    store = open_chats(tokens)
    assert tokens.chunks > 5 and is_intact(store)
    tok = load_tokenizer(desk / "tokenizer")
    rows = read_chats(desk / "chats.jsonl", Quarantine())
    sound = [row for row in rows if ANSWER not in str(row["messages"])]
    kept, held = train_validation_split(sound, 0.2, SEED)
    made = [chat_examples(tok, row, "qwen", ROW, too_long) for row in kept]
    examples = [example for found, _ in made for example in found]
    memory = InMemoryTokenDataset(examples)
    assert store.digest == memory.digest and [*store.ids] == memory.ids and max(store.lengths) <= ROW
    counts = tokens.counts
    assert counts["read"] == len(rows) + 2 == sum(counts[outcome] for outcome in OUTCOMES)
    assert counts["test_overlap"] == len(rows) - len(sound) == 4 and counts["overlap_13gram"] == 0
    assert counts["held_out"] == len(held) and [row["id"] for row in tokens.aside] == [row["id"] for row in held]
    assert counts["kept"] == sum(bool(found) for found, _ in made) and counts["too_long"] == len(kept) - counts["kept"]
    assert counts["turns_left_out"] == sum(lost for found, lost in made if found)
    assert counts["tokens"] == store.lengths.sum() and counts["parts"] == len(store.lengths)
    assert counts["quarantined"] == len(tokens.bad) == 2 and sum(tokens.reasons.values()) == 2


@pytest.mark.parametrize("kind", ["chats", "pairs"])
def test_workers_make_the_same_bytes(desk: Path, tmp_path: Path, kind: str) -> None:
    opened = {"chats": open_chats, "pairs": open_pairs}[kind]
    for workers in (1, 2):
        opened(work(desk, tmp_path / f"{workers}", kind, workers))
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_pairs_are_the_pairs_of_memory(desk: Path, tmp_path: Path) -> None:
    tok = load_tokenizer(desk / "tokenizer")
    kept, held = train_validation_split(
        read_pairs(desk / "pairs.jsonl", "pairs.jsonl", Quarantine()), 0.2, SEED, prompt_of
    )
    for too_long in ("drop", "truncate"):
        tokens = work(desk, tmp_path / too_long, "pairs", too_long=too_long)
        pairs, counts = encode_pairs(kept, tok, ROW, too_long)
        found = open_pairs(tokens)
        assert list(found) == pairs and found[-1] == pairs[-1] and found[1:3] == pairs[1:3] and len(found) == len(pairs)
        assert {name: tokens.counts[name] for name in counts} == counts and counts["too_long"]
        assert not tokens.counts["quarantined"] and counts["same_text"]
        assert tokens.counts["read"] == 129 and tokens.counts["held_out"] == len(held) == len(tokens.aside)
    assert counts["cut"] and tokens.counts["too_long"] < work(desk, tmp_path / "drop", "pairs").counts["too_long"]


def test_truncation_of_a_pair_is_the_same_for_both_sides(desk: Path) -> None:
    """The oldest turns go until the longer side fits; the answers are whole."""
    tok = load_tokenizer(desk / "tokenizer")
    row = {"id": "p", "messages": messages(("one", "1"), ("two", "2"), ("three", ""), system="S")[:-1],
           "chosen": "river", "rejected": "river " * 9}  # fmt: skip
    (whole,), _ = encode_pairs([row], tok, 1000)
    (cut,), counts = encode_pairs([row], tok, whole.tokens - 1, "truncate")
    rest = {**row, "messages": [row["messages"][0], *row["messages"][3:]]}
    assert [cut] == encode_pairs([rest], tok, 1000)[0] and counts["cut"] == 1
    last = {**row, "messages": [row["messages"][0], row["messages"][-1]]}
    (shortest,), _ = encode_pairs([last], tok, 1000)
    assert encode_pairs([row], tok, shortest.tokens, "truncate")[0] == [shortest]
    assert encode_pairs([row], tok, shortest.tokens - 1, "truncate")[1]["too_long"] == 1


def test_ids_and_weights_of_a_split_chat_by_hand(desk: Path) -> None:
    """Each part is a conversation of its own: system turn, whole turns, the mask of a conversation."""
    tok = load_tokenizer(desk / "tokenizer")
    row = {"id": "c", "messages": messages(("q1", "a1"), ("q2", "a2"), ("q3", "a3"), system="s")}

    def turn(role: str, text: str) -> tuple[list[int], list[float]]:
        head, body = tok.encode(f"{role}\n"), tok.encode(text)
        ids = [tok.im_start_id, *head, *body, tok.im_end_id, *tok.encode("\n")]
        return ids, [1.0, *[0.0] * len(head), *[float(role == "assistant")] * len(body), 1.0, 1.0]

    def part(*numbers: int) -> tuple[list[int], list[float]]:
        said = [(role, f"{letter}{n}") for n in numbers for role, letter in (("user", "q"), ("assistant", "a"))]
        turns = [turn(*each) for each in (("system", "s"), *said)]
        return [i for ids, _ in turns for i in ids], [w for _, weights in turns for w in weights]

    two = len(part(1, 2)[0])
    found, left_out = chat_examples(tok, row, "qwen", two, "split")
    assert left_out == 0 and [example.id for example in found] == ["c/0", "c/1"]
    assert [(list(e.ids), list(e.weights)) for e in found] == [part(1, 2), part(3)]
    (newest,), left_out = chat_examples(tok, row, "qwen", two, "truncate")
    assert left_out == 1 and (newest.id, list(newest.ids), list(newest.weights)) == ("c", *part(2, 3))
    assert chat_examples(tok, row, "qwen", two, "drop") == ([], 3)


def test_chats_without_an_answer_to_learn_are_put_aside(desk: Path, tmp_path: Path) -> None:
    """Marks alone would be trained; and where nothing else is left, it is said why."""
    silent = [{"id": "x", "messages": messages(("q", ""))}]
    write_jsonl(tmp_path / "c.jsonl", [*chat_rows(), *silent])
    given = {**inputs(desk, "", False), "data": Input("data", tmp_path / "c.jsonl", "")}
    tokens = tokenize_rows("chats", given, plan(desk, False, share=0.0), tmp_path / "a")
    assert tokens.counts["quarantined"] == 1 and tokens.counts["kept"] == len(chat_rows())
    write_jsonl(tmp_path / "c.jsonl", [*silent * 3, {"id": "y", "messages": messages(("q", "long " * 99))}])
    with pytest.raises(UserError, match="none of 4 chats is left to learn from: 3 quarantined, 1 too long"):
        tokenize_rows("chats", given, plan(desk, False, share=0.0), tmp_path / "b")


def test_a_chat_that_the_template_refuses_is_put_aside(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chat, not the whole file; and a folder that can render none is refused before anything is read."""
    usual = chat_tokens.example

    def refusing(tok: Any, row: Any, mask: str) -> Any:
        if row["id"] == "c5":
            raise UserError("the template knows no such turn")
        return usual(tok, row, mask)

    monkeypatch.setattr(chat_tokens, "example", refusing)
    write_jsonl(tmp_path / "c.jsonl", chat_rows())
    given = {**inputs(desk, "", False), "data": Input("data", tmp_path / "c.jsonl", "")}
    tokens = tokenize_rows("chats", given, plan(desk, False, share=0.0), tmp_path / "a")
    assert tokens.reasons == {"the template knows no such turn": 1} and tokens.counts["kept"] == len(chat_rows()) - 1
    assert (tokens.bad[0]["file"], tokens.bad[0]["line"]) == ("c.jsonl", 6)
    with pytest.raises(UserError, match="style"):
        tokenize_rows("chats", given, replace(plan(desk, False), style="qwen3"), tmp_path / "b")


BUILD = """
import json, sys
from pathlib import Path
from qwenkit.stages import chat_tokens
from qwenkit.stages.base import Input
if __name__ == "__main__":
    kind, given, plan, folder, workers, chat_tokens.SPLIT_BYTES = json.loads(sys.argv[1])
    inputs = {name: Input(name, Path(path), digest) for name, path, digest in given}
    plan = {name: Path(value) if name in ("tokenizer", "tests") and value else value for name, value in plan.items()}
    chat_tokens.tokenize_rows(kind, inputs, chat_tokens.Plan(**plan), Path(folder), workers=workers)
"""


@pytest.mark.parametrize("kind", ["chats", "pairs"])
@pytest.mark.parametrize(("kills", "workers"), [(2, 1), pytest.param(20, 2, marks=pytest.mark.soak)])
def test_kills_lose_no_more_than_a_chunk(desk: Path, tmp_path: Path, kind: str, kills: int, workers: int) -> None:
    """SIGKILL to the whole group at a random moment after some more chunks are done; those are not touched again."""
    script, folder, luck = tmp_path / "build.py", tmp_path / "killed", random.Random(workers)
    script.write_text(BUILD)
    given = [[name, str(each.path), each.digest] for name, each in inputs(desk, f"{kind}.jsonl", False).items()]
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in vars(plan(desk, False)).items()}

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, str(script), json.dumps([kind, given, asked, str(folder), workers, SIZE])]
        return subprocess.Popen(command, start_new_session=True)

    marks = f"{kind}/{'[0-9]' * 5}/mark.json"
    assert kill_often(folder, marks, kills, start, lambda: luck.random() / 500)
    opened = {"chats": open_chats, "pairs": open_pairs}[kind]
    for out in (folder, tmp_path / "whole"):
        opened(work(desk, out, kind))
    assert digest(folder) == digest(tmp_path / "whole")
