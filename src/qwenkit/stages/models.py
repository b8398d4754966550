"""Models and tokenizers of a stage: how a folder is loaded to be trained, asked for answers, and published again.

Whatever is trained is held in float32: in bfloat16 a step of 2e-6 on a weight of 0.02 is rounded away whole, silently.
What was stored in 16 bits is stored so again, and measured as it was stored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qwenkit.errors import UserError, listed, notice
from qwenkit.files import read_bytes
from qwenkit.records import Row, read_json, read_object, write_json

if TYPE_CHECKING:
    from torch import nn

TRAINED = "float32"
GENERATION = "generation_config.json"
_BESIDE = ("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.json")
"""Files of a tokenizer that older programs read."""
_FILES = {
    "added_tokens_decoder", "auto_map", "chat_template", "merges_file", "name_or_path", "special_tokens_map_file",
    "tokenizer_file", "use_fast", "vocab_file",
}  # fmt: skip
"""Settings that speak of files or code which a tokenizer that is written anew does not have."""
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
            hint='set style = "chatml", whose template is published with the model',
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
    """A chat model's folder: it stops at the end of its turn, and at the end of a text, in every engine. How answers
    are drawn stays as its source says."""
    from dataclasses import replace

    from qwenkit.model import save_model

    model.config = replace(model.config, dropout=0.0, eos_token_id=tok.im_end_id)
    with as_stored(model, source):
        save_model(model, out)
    save_settings(source, out, model.config.vocab_size, ends=(tok.im_end_id, tok.eot_id))
    save_tokenizer(tok, source, out)
    copy_papers(source, out)


def save_scorer(model: Any, tok: Any, source: Path, out: Path) -> None:
    """A preference or reward model's folder."""
    from qwenkit.model import save_scalar

    with as_stored(model, source):
        save_scalar(model, out)
    save_tokenizer(tok, source, out)
    copy_papers(source, out)


def save_settings(source: Path, out: Path, rows: int, ends: Sequence[int] = ()) -> None:
    """How answers are drawn belongs to the model: the settings of the source over those that were written with the
    weights. `ends` are what a chat model stops at, before what it stopped at already. Ids that the model has no row for
    are left out, and told."""
    file = out / GENERATION
    settings = {**read_json(file), **(read_object(source / GENERATION) if (source / GENERATION).exists() else {})}
    if ends:
        own = settings.get("eos_token_id")
        before = own if isinstance(own, list) else [own]
        settings["eos_token_id"] = list(dict.fromkeys([*ends, *(id for id in before if id is not None)]))
        settings |= {"chat_format": "chatml"} if "chat_format" in settings else {}
    for name in [name for name in settings if name.endswith("_token_id")]:
        value = settings[name]
        ids = value if isinstance(value, list) else [value]
        known = [id for id in ids if not isinstance(id, int) or id < rows]
        if len(known) < len(ids):
            notice(f"{name} = {value} is beyond the {rows} rows of the model, and left out", str(source / GENERATION))
            settings[name] = known if isinstance(value, list) and known else None
    write_json(file, settings)


def copy_papers(source: Path, out: Path) -> None:
    """Licence and notices go with whatever is made of a model."""
    for path in sorted(source.iterdir()) if source.is_dir() else ():
        if path.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE")) and _own(path, source):
            (out / path.name).write_bytes(read_bytes(path))


def _own(path: Path, source: Path) -> bool:
    """Whether this is a file of the folder itself, or of the cache that the folder is a snapshot of: a link that leads
    elsewhere would publish a file of its owner's."""
    place, home = path.resolve(), source.resolve()
    cache = home.parents[1] if len(home.parents) > 1 and home.parent.name == "snapshots" else home
    return path.is_file() and (place.is_relative_to(home) or place.is_relative_to(cache))


def save_tokenizer(tok: Any, source: Path, out: Path, form: str = "json") -> None:
    """The tokenizer beside the weights, so that the folder is whole: its source's files, with the template that chats
    were rendered by; anew where the source has no tokenizer.json, or another form is wanted."""
    from qwenkit.chat import load_tokenizer
    from qwenkit.tokenizer import chatml_template, read_config, read_template
    from qwenkit.tokenizer.publish import CONFIG, TEMPLATE, TEMPLATES, TOKENIZER

    if form == "json" and (source / TOKENIZER).is_file():
        for name in (TOKENIZER, CONFIG, TEMPLATE, *_BESIDE):
            if (source / name).is_file() and (name not in _BESIDE or _own(source / name, source)):
                (out / name).write_bytes(read_bytes(source / name))
        template = tok.chat_template or chatml_template()
        if template != read_template(source) or load_tokenizer(source).style != tok.style:
            (out / TEMPLATE).write_text(template, encoding="utf-8", newline="\n")
            settings = {name: value for name, value in read_config(source).items() if name != "chat_template"}
            write_json(out / CONFIG, {**settings, "chat_style": tok.style})
        else:
            for file in sorted((source / TEMPLATES).glob("*.jinja")):
                (out / TEMPLATES).mkdir(exist_ok=True)
                (out / TEMPLATES / file.name).write_bytes(read_bytes(file))
    else:
        tok.save(out, form=form)
        carry_settings(source, out)
    drop_unknown_names(tok, out)


def carry_settings(source: Path, out: Path) -> None:
    """A tokenizer that was written anew keeps what its source says of its use: `model_max_length` and its like."""
    from qwenkit.tokenizer import read_config
    from qwenkit.tokenizer.publish import CONFIG

    written = read_config(out)
    more = {name: value for name, value in read_config(source).items() if name not in written and name not in _FILES}
    if more:
        write_json(out / CONFIG, {**written, **more})


def drop_unknown_names(tok: Any, out: Path) -> None:
    """A name of a special token that the vocabulary lacks would be a new token in transformers, one beyond the model's
    rows: it is left out, and told."""
    from qwenkit.tokenizer import read_config
    from qwenkit.tokenizer.publish import CONFIG

    for name in (CONFIG, "special_tokens_map.json"):
        found = read_config(out) if name == CONFIG else read_object(out / name) if (out / name).is_file() else {}
        lost = {key: text for key, value in found.items() if (text := _token(key, value)) and not _has(tok, text)}
        if lost:
            shown = listed([f"{key} = {text}" for key, text in lost.items()])
            notice(f"{name}: {shown} is not a token of the vocabulary, and left out", str(out))
            kept = {key: None if key in lost else value for key, value in found.items()}
            write_json(out / name, kept)


def _token(key: str, value: Any) -> str | None:
    """The text of a special token in a tokenizer's settings."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if key.endswith("_token") and isinstance(text, str) else None


def _has(tok: Any, text: str) -> bool:
    return text in tok.special or len(tok.encode(text)) == 1
