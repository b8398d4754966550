"""Models and tokenizers of a stage: how a folder is loaded to be trained, asked for answers, and published again.

Whatever is trained is held in float32: in bfloat16 a step of 2e-6 on a weight of 0.02 is rounded away whole, silently.
What was stored in 16 bits is stored so again, and measured as it was stored.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qwenkit.errors import UserError
from qwenkit.records import Row, read_json, write_json

if TYPE_CHECKING:
    from torch import nn

TRAINED = "float32"
Style = Literal["own", "qwen1", "chatml", "qwen3"]
STYLE = (
    "chat style to render in; own: that of the folder's template. Another one's template is published with the model"
)


def chat_tokenizer(folder: Path, style: str) -> Any:
    """The folder's tokenizer, rendering in its own style or in the one named."""
    from qwenkit.chat import ChatTokenizer, load_tokenizer
    from qwenkit.tokenizer import chatml_template

    tok = load_tokenizer(folder)
    if style in ("own", tok.style):
        return tok
    if style == "qwen3":
        raise UserError(
            "style = qwen3, but the folder's chat template is another one", where=str(folder),
            expected="a folder with Qwen3's template: what is trained must be what is served",
            mend='set style = "chatml", whose template is published with the model',
        )  # fmt: skip
    return ChatTokenizer(tok, style, chatml_template())


def prompt_ids(tok: Any, row: Row) -> list[int]:
    """A row's prompt, with the tools that it offers."""
    return tok.render(row["messages"], tools=row.get("tools"), add_generation_prompt=True).ids


def answers(engine: Any, rows: Sequence[Row], params: Any, requests: Sequence[int] | None = None) -> list[Any]:
    """The engine's answers to prompts, each ending with its turn or with the text."""
    from dataclasses import replace

    tok = engine.tok
    turn = replace(params, stop_token_ids=(*params.stop_token_ids, tok.im_end_id, tok.eot_id))
    return engine.generate([prompt_ids(tok, row) for row in rows], turn, requests)


@contextlib.contextmanager
def as_stored(model: nn.Module, source: Path) -> Iterator[None]:
    """Inside the block the model has the dtype that its source is stored in; after it float32, rounded as stored."""
    import torch

    from qwenkit.model import stored_dtype

    model.to(stored_dtype(source))
    yield
    model.to(torch.float32)


def save_chat_model(model: Any, tok: Any, source: Path, out: Path) -> None:
    """A chat model's folder: it stops at the end of its turn, and at the end of a text, in every engine."""
    from dataclasses import replace

    from qwenkit.model import save_model

    model.config = replace(model.config, dropout=0.0, eos_token_id=tok.im_end_id)
    with as_stored(model, source):
        save_model(model, out)
    defaults = read_json(out / "generation_config.json")
    write_json(out / "generation_config.json", {**defaults, "eos_token_id": [tok.im_end_id, tok.eot_id]})
    save_tokenizer(tok, source, out)


def save_scorer(model: Any, tok: Any, source: Path, out: Path) -> None:
    """A preference or reward model's folder."""
    from qwenkit.model import save_scalar

    with as_stored(model, source):
        save_scalar(model, out)
    save_tokenizer(tok, source, out)


def save_tokenizer(tok: Any, source: Path, out: Path) -> None:
    """The tokenizer beside the weights, so that the folder is whole: its source's files, with the template that chats
    were rendered by; anew where the source has no tokenizer.json."""
    from qwenkit.chat import load_tokenizer
    from qwenkit.tokenizer import chatml_template, read_config, read_template
    from qwenkit.tokenizer.publish import CONFIG, TEMPLATE, TEMPLATES, TOKENIZER

    if not (source / TOKENIZER).is_file():
        tok.save(out)
        return
    more = sorted(path.relative_to(source) for path in (source / TEMPLATES).glob("*.jinja"))
    for name in (TOKENIZER, CONFIG, TEMPLATE, *more):
        if (source / name).is_file():
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, out / name)
    template = tok.chat_template or chatml_template()
    if template != read_template(source) or load_tokenizer(source).style != tok.style:
        (out / TEMPLATE).write_text(template, encoding="utf-8", newline="\n")
        settings = {name: value for name, value in read_config(source).items() if name != "chat_template"}
        write_json(out / CONFIG, {**settings, "chat_style": tok.style})
