"""A chat model's tokenizer: loaded with the chat style that is wanted, and written beside the weights.

    tok = chat_tokenizer(folder, "own")          # in the style of the folder, or in one named
    save_tokenizer(tok, folder, out)

The template that chats were rendered by goes with the weights: what is trained is what is served.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from qwenkit.adapter_files import tokenizer_at
from qwenkit.chat.styles import get_style
from qwenkit.chat.tokenizer import ChatTokenizer, load_tokenizer
from qwenkit.errors import UserError, listed, notice
from qwenkit.files import read_bytes
from qwenkit.gguf_file import is_gguf
from qwenkit.records import Row, read_object, write_json
from qwenkit.tokenizer import chatml_template, ranks_text, read_config, read_template
from qwenkit.tokenizer.publish import CONFIG, TEMPLATE, TEMPLATES, TOKENIZER

EXTRA = "extra.tiktoken"
_BESIDE = ("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.json")
"""Files of a tokenizer that older programs read."""
_FILES = {
    "added_tokens_decoder", "auto_map", "chat_template", "merges_file", "name_or_path", "special_tokens_map_file",
    "tokenizer_file", "use_fast", "vocab_file",
}  # fmt: skip
"""Settings about files or code that a newly written tokenizer does not have."""

Style = Literal["own", "qwen1", "chatml", "qwen2", "qwen2.5", "qwen3", "qwq"]
"""Styles that a model may be trained in: our own, and those of folders with their templates."""
STYLE = (
    "chat style to render in; own: that of the folder's template. Another one's template is published with the model"
)


def find_tokenizer(folder: Path) -> ChatTokenizer | None:
    """Return the tokenizer of a folder or a GGUF file, or None where it has none."""
    folder = tokenizer_at(folder)
    here = any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")) or any(folder.glob("*.tiktoken"))
    return load_tokenizer(folder) if here or is_gguf(folder) else None


def chat_tokenizer(folder: Path, style: str) -> ChatTokenizer:
    """Return the folder's tokenizer, rendering in its own style or in the one named."""
    tok = load_tokenizer(folder)
    if style in ("own", tok.style):
        return tok
    if not get_style(style).published:
        raise UserError(
            f"style = {style}, but the folder's chat template is another one", where=str(folder),
            expected=f"a folder with the template of {style}: what is trained must be what is served",
            hint='set style = "chatml", whose template is published with the model',
        )  # fmt: skip
    return ChatTokenizer(tok, style, chatml_template())


def prompt_ids(tok: ChatTokenizer, row: Row) -> list[int]:
    """Return the ids of a row's prompt, rendered with the tools that it offers."""
    return tok.render(row["messages"], tools=row.get("tools"), add_generation_prompt=True).ids


def save_tokenizer(tok: ChatTokenizer, source: Path, out: Path, form: str = "json") -> None:
    """Write the tokenizer beside the weights, so that the folder is complete.

    The files of the source are copied, with the template that chats were rendered by. They are written anew where the
    source has no tokenizer.json, or where `form` is another."""
    source = tokenizer_at(source)
    if form == "json" and (source / TOKENIZER).is_file():
        for name in (TOKENIZER, CONFIG, TEMPLATE, *_BESIDE):
            if (source / name).is_file() and (name not in _BESIDE or is_own_file(source / name, source)):
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


def save_extended_tokenizer(old: ChatTokenizer, new: ChatTokenizer, source: Path, out: Path) -> None:
    """Write the folder of a tokenizer that was extended, with what the old one's folder says of its use, and the new
    tokens alone as the authors' extra vocabulary (`extra.tiktoken`)."""
    new.save(out)
    carry_settings(source, out)
    drop_unknown_names(new, out)
    added = {token: i for token, i in new.ranks.items() if i >= old.n_tokens}
    (out / EXTRA).write_bytes(ranks_text(added))


def carry_settings(source: Path, out: Path) -> None:
    """Copy settings of the source, such as `model_max_length`, to a tokenizer that was written anew."""
    written = read_config(out)
    more = {name: value for name, value in read_config(source).items() if name not in written and name not in _FILES}
    if more:
        write_json(out / CONFIG, {**written, **more})


def drop_unknown_names(tok: ChatTokenizer, out: Path) -> None:
    """Remove names of special tokens that the vocabulary lacks, with a notice.

    transformers would make each a new token, beyond the rows of the model's embedding."""
    for name in (CONFIG, "special_tokens_map.json"):
        settings = read_config(out) if name == CONFIG else read_object(out / name) if (out / name).is_file() else {}
        lost = {key: text for key, value in settings.items() if (text := _token(key, value)) and not _has(tok, text)}
        if lost:
            shown = listed([f"{key} = {text}" for key, text in lost.items()])
            notice(f"{name}: {shown} is not a token of the vocabulary, and left out", str(out))
            kept = {key: None if key in lost else value for key, value in settings.items()}
            write_json(out / name, kept)


def _token(key: str, value: Any) -> str | None:
    """Return the text of a special token in a tokenizer's settings."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if key.endswith("_token") and isinstance(text, str) else None


def _has(tok: ChatTokenizer, text: str) -> bool:
    return text in tok.special or len(tok.encode(text)) == 1


def is_own_file(path: Path, source: Path) -> bool:
    """Return whether this is a file of the folder itself, or of the cache that the folder is a snapshot of.

    A link that leads elsewhere would publish a private file of its owner."""
    place, home = path.resolve(), source.resolve()
    cache = home.parents[1] if len(home.parents) > 1 and home.parent.name == "snapshots" else home
    return path.is_file() and (place.is_relative_to(home) or place.is_relative_to(cache))
