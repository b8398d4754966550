"""Chats, prompts and comparisons: every form that Hugging Face knows, from JSONL and Parquet, gives the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwenkit.chat import load_tokenizer
from qwenkit.data.chats.datasets import prompt_of, read_chats, read_pairs
from qwenkit.data.documents import train_validation_split
from qwenkit.data.tokens.chat_shards import chat_example
from qwenkit.errors import UserError
from qwenkit.evaluation.questions import read_prompts
from qwenkit.records import write_jsonl

USER, YES, NO = (
    {"role": role, "content": text} for role, text in (("user", "3 + 4?"), ("assistant", "7"), ("assistant", "8"))
)
SYSTEM = {"role": "system", "content": "请简短回答"}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"a": "int"}}},
         {"type": "function", "function": {"name": "now", "parameters": {}}}]  # fmt: skip


def written(tmp_path: Path, suffix: str, rows: list[dict[str, Any]]) -> Path:
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_jsonl(path, rows)
    return path


PAIRS = {
    "ours": {"messages": [USER], "chosen": "7", "rejected": "8"},
    "a prompt and texts": {"prompt": "3 + 4?", "chosen": "7", "rejected": "8"},
    "a prompt and answers": {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
    "whole chats": {"chosen": [USER, YES], "rejected": [USER, NO]},
    "a prompt and whole chats": {"prompt": "3 + 4?", "chosen": [USER, YES], "rejected": [USER, NO]},
    "single messages": {"prompt": [USER], "chosen": YES, "rejected": NO},
}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
@pytest.mark.parametrize("form", PAIRS)
def test_every_form_of_a_comparison_is_one(form: str, suffix: str, tmp_path: Path) -> None:
    (row,) = read_pairs(written(tmp_path, suffix, [PAIRS[form]]), "pairs.jsonl")
    assert [{key: m[key] for key in ("role", "content")} for m in row["messages"]] == [USER]
    assert (row["id"], row["chosen"], row["rejected"]) == ("pair-0", "7", "8")


def test_what_stands_around_a_prompt_stays(tmp_path: Path) -> None:
    """A system turn before it, earlier turns, an answer that calls a tool."""
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}
    rows = [
        {"prompt": "3 + 4?", "chosen": [SYSTEM, USER, YES], "rejected": [SYSTEM, USER, NO]},
        {"prompt": [SYSTEM, USER, YES, USER], "chosen": [YES], "rejected": [NO]},
        {"prompt": [USER], "chosen": [call], "rejected": [NO], "tools": TOOLS},
    ]
    first, second, third = read_pairs(written(tmp_path, ".jsonl", rows), "pairs.jsonl")
    assert first["messages"] == [SYSTEM, USER] and second["messages"] == [SYSTEM, USER, YES, USER]
    assert third["chosen"] == call and third["rejected"] == "8" and third["tools"] == TOOLS


BAD = [
    ({"chosen": "7", "rejected": "8"}, "missing key `messages`"),
    ({"prompt": "x", "chosen": "7"}, "missing key `rejected`"),
    ({"prompt": 3, "chosen": "7", "rejected": "8"}, "the prompt is a number"),
    ({"prompt": "x", "chosen": [USER], "rejected": [USER]}, "does not end with an answer"),
    ({"chosen": [USER, YES], "rejected": [SYSTEM, USER, NO]}, "different chats"),
    ({"prompt": "x", "chosen": [], "rejected": "8"}, "`chosen` is a list"),
    ({"prompt": "x", "chosen": "7", "rejected": "8", "tools": "{"}, "`tools` is a string that is not JSON"),
    ({"prompt": "x", "chosen": "7", "rejected": "8", "tools": {"a": 1}}, "`tools` is an object"),
]


@pytest.mark.parametrize(("row", "what"), BAD, ids=[what for _, what in BAD])
def test_what_is_no_comparison_is_named(row: dict[str, Any], what: str, tmp_path: Path) -> None:
    path = written(tmp_path, ".jsonl", [PAIRS["ours"], row])
    with pytest.raises(UserError, match=what) as refused:
        read_pairs(path, "pairs.jsonl")
    assert f"{path}, row 2" in refused.value.text()


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_chats_and_prompts(suffix: str, tmp_path: Path) -> None:
    rows = [
        {"messages": [USER, YES], "prompt": "3 + 4?", "id": 0},
        {"messages": [USER, NO], "prompt": "五加一？", "id": 1},
    ]
    path = written(tmp_path, suffix, rows)
    assert [row["id"] for row in read_chats(path)] == ["0", "1"]
    prompts = read_prompts(written(tmp_path, suffix, [{"prompt": row["prompt"]} for row in rows]), "rl")
    assert [row["messages"][0]["content"] for row in prompts] == ["3 + 4?", "五加一？"]
    assert [row["id"] for row in prompts] == ["prompt-0", "prompt-1"]
    with pytest.raises(UserError, match="missing key `rubric`"):
        read_prompts(path.with_name(f"rows{suffix}"), "reward", rubric=True)


def test_a_folder_of_files_and_a_damaged_one(tmp_path: Path) -> None:
    """Hugging Face's parts; a world's own file comes first."""
    for part in ("train-00000.parquet", "train-00001.parquet"):
        pq.write_table(pa.Table.from_pylist([{"messages": [USER, YES]}]), tmp_path / part)
    assert len(read_chats(tmp_path)) == 2
    write_jsonl(tmp_path / "chat.jsonl", [{"messages": [USER, YES]}])
    assert len(read_chats(tmp_path)) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no file of rows in this folder") as refused:
        read_pairs(tmp_path / "empty", "pairs.jsonl")
    assert "pairs.jsonl" in refused.value.text()
    cut = tmp_path / "train-00000.parquet"
    cut.write_bytes(cut.read_bytes()[:-9])
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read_chats(cut)
    with pytest.raises(UserError, match="no such file"):
        read_chats(tmp_path / "none.parquet")


def test_equal_prompts_have_one_name() -> None:
    rows = [{"id": f"{n}", "messages": [{"role": "user", "content": f"{n % 7}"}]} for n in range(70)]
    kept, validation = train_validation_split(rows, 0.4, 3, prompt_of)
    assert kept and validation and not {prompt_of(row) for row in kept} & {prompt_of(row) for row in validation}
    assert prompt_of(rows[0]) != prompt_of({**rows[0], "tools": TOOLS})


@pytest.mark.parametrize("tools", [TOOLS, '[{"name": "add"}]'])
def test_the_tools_of_a_chat_are_rendered(tools: Any, tmp_path: Path, folder: Any) -> None:
    tok = load_tokenizer(folder())
    plain, offered = read_chats(written(tmp_path, ".jsonl", [{"messages": [USER, YES]},
                                                             {"messages": [USER, YES], "tools": tools}]))  # fmt: skip
    assert "add" not in tok.decode(chat_example(tok, plain, "qwen").ids)
    assert '"name": "add"' in tok.decode(chat_example(tok, offered, "qwen").ids)
