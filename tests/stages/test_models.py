"""A chat style that a stage names is the one that is trained, published and served; a folder stays whole."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qwenkit.chat import load_tokenizer
from qwenkit.chat.publish import chat_tokenizer, prompt_ids, save_tokenizer
from qwenkit.errors import UserError
from qwenkit.evaluation.chat_answers import answers
from qwenkit.stages import sft
from tests.stages.conftest import Desk, chat_rows
from tests.stages.test_training import SMALL

FOREIGN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
CHAT = [{"role": "user", "content": "\nriver? 河流"}, {"role": "assistant", "content": "\nIt flows."}]


def foreign(folder: Path) -> Path:
    """A folder whose template is none that is known here; as older ones, in its tokenizer_config.json."""
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": FOREIGN}))
    return folder


def test_an_unknown_template_is_trained_under_a_style_that_is_named(desk: Desk, folder: Callable[..., Path]) -> None:
    edges = {"model": foreign(folder()), "data": desk.rows("chat.jsonl", chat_rows())}
    keys = {**SMALL, "steps": 1, "lr": 1e-4}
    with pytest.raises(UserError, match="none of the styles") as refused:
        desk.run(sft, edges, **keys)
    assert 'style = "chatml"' in refused.value.text()
    done = desk.run(sft, edges, **keys, style="chatml")
    tok = load_tokenizer(done.out)
    assert tok.style == "chatml" and "chat_template" not in json.loads((done.out / "tokenizer_config.json").read_text())
    assert "<|im_start|>user" in tok.decode(tok.render(CHAT).ids)


def test_a_template_with_a_system_turn_of_its_own_is_trained_as_it_is_served(
    desk: Desk, folder: Callable[..., Path]
) -> None:
    source = folder()
    brief = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}"
    template = brief + (source / "chat_template.jinja").read_text()
    (source / "chat_template.jinja").write_text(template)
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text(template + "{#- tools -#}")
    done = desk.run(sft, {"model": source, "data": desk.rows("chat.jsonl", chat_rows())}, **SMALL, steps=1, lr=1e-4)
    trained, served = load_tokenizer(source), load_tokenizer(done.out)
    assert served.style is None and (served.chat_template, served.tool_template) == (
        template,
        template + "{#- tools -#}",
    )
    assert served.render(CHAT).ids == trained.render(CHAT).ids and "Be brief." in served.decode(served.render(CHAT).ids)


@pytest.mark.parametrize("style", ["own", "chatml", "qwen1"])
def test_what_is_rendered_for_training_is_what_the_published_folder_renders(
    style: str, folder: Callable[..., Path], tmp_path: Path
) -> None:
    source, out = folder(), tmp_path / "out"
    out.mkdir()
    tok = chat_tokenizer(source, style)
    save_tokenizer(tok, source, out)
    served = load_tokenizer(out)
    assert served.style == ("chatml" if style == "own" else style)
    assert served.render(CHAT).ids == tok.render(CHAT).ids


def test_a_style_without_a_template_to_publish_is_refused(folder: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="style = qwen3"):
        chat_tokenizer(folder(), "qwen3")


def test_a_folder_with_a_tiktoken_vocabulary_is_published_whole(folder: Callable[..., Path], tmp_path: Path) -> None:
    """As the first Qwen's are: no tokenizer.json to copy."""
    source, ranks = folder(), load_tokenizer(folder("other")).ranks
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        (source / name).unlink()
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in sorted(ranks.items(), key=lambda i: i[1])]
    (source / "qwen.tiktoken").write_text("\n".join(lines))
    tok = chat_tokenizer(source, "own")
    save_tokenizer(tok, source, tmp_path)
    served = load_tokenizer(tmp_path)
    assert served.style == tok.style == "qwen1" and served.render(CHAT).ids == tok.render(CHAT).ids


def test_answers_read_the_tools_of_their_own_row(folder: Callable[..., Path]) -> None:
    from qwenkit import Engine, SamplingParams

    rows = [{"messages": CHAT[:1]}, {"messages": CHAT[:1], "tools": [{"name": "add"}]}]
    engine = Engine(folder(), chat_tokenizer(folder("other"), "own"))
    found = answers(engine, rows, SamplingParams.plain(max_tokens=2, temperature=0))
    assert [list(out.prompt_ids) for out in found] == [prompt_ids(engine.tok, row) for row in rows]
    assert '"name": "add"' in engine.tok.decode(found[1].prompt_ids)
    plain = engine.chat([CHAT[:1]], SamplingParams.plain(max_tokens=2, temperature=0))
    assert plain[0].text == found[0].text


def test_the_tokenizer_stage_knows_every_pattern_by_name() -> None:
    """It lists them itself: a recipe is read without loading the tokenizer."""
    from qwenkit.stages.tokenizer import NAMED
    from qwenkit.tokenizer import PATTERNS

    assert tuple(PATTERNS) == NAMED
