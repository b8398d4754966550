"""Write the folder of a trained model: weights in the dtype of its source, generation settings, tokenizer and
licence.

Weights are float32 during training: in bfloat16 a step of 2e-6 on a weight of 0.02 is rounded away completely. A model
that was stored in 16 bits is stored so again, and measured as it is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qwenkit.adapter_files import BaseName, described_at
from qwenkit.chat.publish import is_own_file, save_tokenizer
from qwenkit.errors import UserError, notice
from qwenkit.files import read_bytes
from qwenkit.model import load_model, save_model
from qwenkit.model.adapted import save_trained
from qwenkit.model.resize_token_embeddings import resize_token_embeddings
from qwenkit.records import read_json, read_object, write_json
from qwenkit.tokenizer import Tokenizer

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer
    from qwenkit.model import ScalarModel, Transformer


GENERATION = "generation_config.json"


def save_chat_model(
    model: Transformer, tok: ChatTokenizer, source: Path, out: Path, base: BaseName | None = None
) -> None:
    """Write a chat model's folder, or that of its adapter, whose model `base` names. In every engine it stops at the
    end of its turn and at the end of a text; the other generation settings stay those of its source."""
    model.config = replace(model.config, dropout=0.0, eos_token_id=tok.im_end_id)
    save_trained(model, source, out, base)
    save_generation_config(source, out, model.config.vocab_size, ends=(tok.im_end_id, tok.eot_id))
    save_tokenizer(tok, source, out)
    copy_licences(source, out)


def save_like(model: Transformer, tok: ChatTokenizer | None, source: Path, out: Path, form: str = "json") -> None:
    """Write a model that was changed without training: how it is used, and its licence, stay as its source says.

    `form` is that of the tokenizer (`json` or `tiktoken`); a model without one gets none.
    """
    save_model(model, out)
    save_generation_config(source, out, model.config.vocab_size)
    if tok is not None:
        save_tokenizer(tok, source, out, form)
    copy_licences(source, out)


def weight_bytes(folder: Path) -> int:
    """Return the bytes of a folder's weights on disk."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def save_scorer(model: ScalarModel, tok: ChatTokenizer, source: Path, out: Path, base: BaseName | None = None) -> None:
    """Write the folder of a preference or reward model, or that of its adapter, whose model `base` names."""
    save_trained(model, source, out, base)
    save_tokenizer(tok, source, out)
    copy_licences(source, out)


def save_generation_config(source: Path, out: Path, rows: int, ends: Sequence[int] = ()) -> None:
    """Write generation_config.json: the settings of the source, laid over those that were written with the weights.

    `ends` are the stop tokens of a chat model, put before those of the source. Token ids beyond the model's `rows` are
    left out, with a notice."""
    file = out / GENERATION
    source = source if (source / GENERATION).exists() else described_at(source)
    settings = {
        **(read_json(file) if file.exists() else {}),
        **(read_object(source / GENERATION) if (source / GENERATION).exists() else {}),
    }
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


def copy_licences(source: Path, out: Path) -> None:
    """Copy the licence and notice files of the source model."""
    for path in sorted(source.iterdir()) if source.is_dir() else ():
        if path.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE")) and is_own_file(path, source):
            (out / path.name).write_bytes(read_bytes(path))


def resize_for_tokenizer(source: Path, old: ChatTokenizer, new: ChatTokenizer, out: Path) -> ChatTokenizer:
    """Write a model with an embedding row for every new token; return the tokenizer with the model's number of rows."""
    model = load_model(source, device="cpu", merged=True)
    if model.config.vocab_size < old.n_tokens:
        raise UserError(
            f"the model has {model.config.vocab_size} rows, its tokenizer {old.n_tokens} tokens",
            where=str(source),
            expected="a model and its own tokenizer",
        )
    rows = max(model.config.vocab_size, new.vocab_size)
    parts = [old.encode_piece(token) for token, i in new.ranks.items() if i >= old.n_tokens]
    save_model(resize_token_embeddings(model, old.n_tokens, parts, rows), out)
    save_generation_config(source, out, rows)
    copy_licences(source, out)
    wide = Tokenizer(new.ranks, new.special, new.pattern, vocab_size=rows, **new.flags)
    return new.over(wide)
