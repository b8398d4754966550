"""Write a tokenizer as a Hugging Face folder: tokenizer.json, tokenizer_config.json, chat_template.jinja.

    save_tokenizer(tok, folder)
    transformers.AutoTokenizer.from_pretrained(folder)      # encodes identically, vLLM too
    save_tokenizer(tok, folder, form="tiktoken")            # qwen.tiktoken instead of tokenizer.json

An extended vocabulary has tokens beyond the special ones. `tokenizers` numbers added tokens by itself unless the
model's vocabulary holds them, so there they stand in it as well; no merge leads to them.

`folder.load` is the inverse. The template is ChatML without a default system turn; it renders what
`qwenkit.chat` renders in style "chatml".

Caveats: transformers and vLLM fill the template with what users typed and then encode the whole, so a `<|im_end|>` that
a user typed ends the turn there. `tok.render` encodes every content by itself and never parses it. To be safe
elsewhere, hand over the ids of `tok.render`, or break the marks in user text first: `text.replace("<|", "< |")`.
`tokenizers` orders combining marks by an older Unicode than Python: where two marks meet, one of about a hundred that
came since, its normal form is another and so may its ids be. The authors' own code is Python's. Beside a `qwen2` model,
transformers 5 puts in its own class, which looks for special tokens before NFC: a special token's name followed by
U+0338 is one there and none here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from qwenkit.errors import UserError
from qwenkit.records import Row
from qwenkit.tokenizer.bytelevel import merges, to_printable
from qwenkit.tokenizer.core import Tokenizer
from qwenkit.tokenizer.patterns import ENDOFTEXT
from qwenkit.tokenizer.tiktoken_file import ranks_text

TOKENIZER, CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
TEMPLATES = "additional_chat_templates"
"""A folder beside `TEMPLATE` that holds templates with other names."""
RANKS = "qwen.tiktoken"


def chatml_template() -> str:
    """Return the chat template of the family trained here (ChatML)."""
    return resources.files("qwenkit.tokenizer").joinpath("chatml.jinja").read_text("utf-8")


def save_tokenizer(
    tok: Tokenizer,
    folder: str | Path,
    chat_template: str | None = None,
    eos_token: str | None = None,
    chat_style: str = "chatml",
    form: str = "json",
    names: Mapping[str, object] | None = None,
    templates: Mapping[str, str] | None = None,
) -> None:
    """Write the three files into a folder. Equal tokenizers give equal bytes.

    `names` are what a template calls special tokens by, `templates` further templates by name."""
    if form not in ("json", "tiktoken"):
        raise UserError(f"unknown form {form!r}", expected="json or tiktoken")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(a["id"]): {k: a[k] for k in a if k != "id"} for a in _added(tok)},
        "bos_token": None,
        "chat_style": chat_style,
        "clean_up_tokenization_spaces": False,
        "eos_token": ENDOFTEXT,
        "errors": "replace",
        "model_vocab_size": tok.vocab_size,
        "pad_token": ENDOFTEXT,
        "split_special_tokens": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
        **({"pattern": tok.pattern, "nfc": tok.nfc} if form == "tiktoken" else {}),
        **(names or {}),
        **({} if eos_token is None else {"eos_token": eos_token}),
    }
    template = chatml_template() if chat_template is None else chat_template
    if form == "json":
        (folder / TOKENIZER).write_text(dump(tokenizer_json(tok)), encoding="utf-8", newline="\n")
    else:
        (folder / RANKS).write_bytes(ranks_text(tok.ranks))
    (folder / CONFIG).write_text(dump(config), encoding="utf-8", newline="\n")
    (folder / TEMPLATE).write_text(template, encoding="utf-8", newline="\n")
    for name, other in (templates or {}).items():
        (folder / TEMPLATES).mkdir(exist_ok=True)
        (folder / TEMPLATES / f"{name}.jinja").write_text(other, encoding="utf-8", newline="\n")


def dump(obj: Mapping[str, object]) -> str:
    """Return settings as JSON text; equal settings give equal bytes."""
    return json.dumps(obj, ensure_ascii=False, indent=1) + "\n"


def _added(tok: Tokenizer) -> list[dict[str, Any]]:
    """Return special tokens as `tokenizers` describes them, by id; `normalized` means that they are located after
    NFC."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    return [
        {
            "id": i,
            "content": name,
            **flags,
            **(tok.edges[name]._asdict() if name in tok.edges else {}),
            "normalized": name not in tok.first,
            "special": name not in tok.visible,
        }
        for name, i in sorted(tok.special.items(), key=lambda item: item[1])
    ]


def tokenizer_json(tok: Tokenizer) -> Row:
    """Return the content of tokenizer.json. `ignore_merges` is set: a pre-token that is a token becomes that token, as
    in tiktoken."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": tok.regex}, "behavior": "Isolated", "invert": False}
    ids = {to_printable(token): rank for token, rank in tok.ranks.items()}
    if max(tok.ranks.values()) >= len(tok.ranks):
        ids |= tok.special
    vocab = dict(sorted(ids.items(), key=lambda item: item[1]))
    pairs = [[to_printable(left), to_printable(right)] for left, right in merges(tok.ranks)]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": True,
        "vocab": vocab,
        "merges": pairs,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(tok),
        "normalizer": {"type": "NFC"} if tok.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": model,
    }
