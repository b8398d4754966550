"""Chats and pairs to cut into shards, and the means to compare and to kill the making of them."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from qwenkit.data.tokens import row_shards
from qwenkit.data.tokens.row_shards import RowKind, TokenizePlan, tokenize_rows
from qwenkit.records import write_jsonl
from qwenkit.tokenizer import save_tokenizer, train_bpe
from tests.kills import kill_often
from tests.stages.conftest import QUESTIONS, TEXTS

SIZE, SEED, ROW = 12_000, 7, 160
ANSWER = "the seventh keeper of the northern light wrote down every ship that passed before dawn"


def messages(*turns: tuple[str, str], system: str = "") -> list[dict[str, Any]]:
    head = [{"role": "system", "content": system}] if system else []
    return [*head, *({"role": r, "content": c} for turn in turns for r, c in zip(("user", "assistant"), turn))]


def make_desk(folder: Path) -> Path:
    """A tokenizer; chats of some turns, of which some are too long, hold a test or cannot be read; pairs likewise."""
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


def plan(desk: Path, tests: bool = True, **given: Any) -> TokenizePlan:
    usual: dict[str, Any] = {
        "style": "own", "seq_length": ROW, "too_long": "drop", "validation_share": 0.2, "seed": SEED,
    }  # fmt: skip
    return TokenizePlan(desk / "tokenizer", **{**usual, **given}, tests=desk / "tests" if tests else None)


def digest(folder: Path) -> str:
    """Over every file of the phase."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)).hexdigest()


BUILD = """
import json, sys
from pathlib import Path
from pkgutil import resolve_name
from qwenkit.data.tokens import row_shards
if __name__ == "__main__":
    kind, source, plan, folder, workers, row_shards.SPLIT_BYTES = json.loads(sys.argv[1])
    plan = {name: Path(value) if name in ("tokenizer", "tests") and value else value for name, value in plan.items()}
    given = [Path(source)], ["1", "2"], row_shards.TokenizePlan(**plan), Path(folder)
    row_shards.tokenize_rows(resolve_name(kind), *given, workers=workers)
"""


def kill_and_compare(
    desk: Path, tmp_path: Path, kind: str, opened: Callable[..., Any], kills: int, workers: int
) -> None:
    """SIGKILL to the whole group at a random moment after some more chunks are done; those are not touched again."""
    script, folder, luck = tmp_path / "build.py", tmp_path / "killed", random.Random(workers)
    script.write_text(BUILD)
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in vars(plan(desk, False)).items()}
    rows: RowKind = resolve_name(kind)
    source = desk / f"{rows.name}.jsonl"
    given = [kind, str(source), asked, str(folder), workers, SIZE]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(script), json.dumps(given)], start_new_session=True)

    marks = f"{rows.name}/{'[0-9]' * 5}/mark.json"
    assert kill_often(folder, marks, kills, start, lambda: luck.random() / 500)
    assert row_shards.SPLIT_BYTES == SIZE
    for out in (folder, tmp_path / "whole"):
        opened(tokenize_rows(rows, [source], ["1", "2"], plan(desk, False), out))
    assert digest(folder) == digest(tmp_path / "whole")
