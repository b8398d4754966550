"""Pictures and sounds in a message: content parts in the forms that people use, and the ids that stand for them.

    {"type": "image_url", "image_url": {"url": "cat.png"}}       OpenAI's form
    {"type": "image", "image": "cat.png"}                        a path, a URL or a data: URL
    {"type": "input_audio", "input_audio": {"data": "UklG...", "format": "wav"}}
    {"type": "audio", "audio": "a.wav"}, {"type": "audio_url", "audio_url": {"url": ...}}

Whether a conversation may have them is its style's affair (`ChatStyle.media`); nothing here opens a file or a URL.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from qwenkit.errors import UserError
from qwenkit.prompt import MediaKind

if TYPE_CHECKING:
    from qwenkit.chat.styles import MediaForm
    from qwenkit.tokenizer import Tokenizer

KINDS: dict[str, MediaKind] = {
    "image_url": "image",
    "image": "image",
    "audio_url": "audio",
    "input_audio": "audio",
    "audio": "audio",
}
"""Types of content parts that hold a picture or a sound."""


class MediaPart(NamedTuple):
    """A picture or a sound in a message, and where it comes from: a path, a URL or a `data:` URL."""

    kind: MediaKind
    source: str

    def plain(self) -> dict[str, str]:
        """Return the part as messages hold it once they are checked."""
        return {"type": self.kind, self.kind: self.source}


def read_part(part: Mapping[str, Any], where: str) -> MediaPart:
    """Return the picture or sound of a content part, of a type in `KINDS`; raises a `UserError` where it names none."""
    name = part["type"]
    value = part.get(name)
    if name == "input_audio":
        value = _audio_data(value)
    elif isinstance(value, Mapping):
        value = value.get("url")
    if isinstance(value, str) and value:
        return MediaPart(KINDS[name], value)
    raise UserError(f"a content part of type {name!r} without its {KINDS[name]}", where=where, expected=_FORMS[name])


_FORMS = {
    "input_audio": '{"type": "input_audio", "input_audio": {"data": "...", "format": "wav"}}',
    **{name: f'{{"type": "{name}", "{name}": "..."}}, a path, a URL or a data: URL' for name in ("image", "audio")},
    **{
        name: f'{{"type": "{name}", "{name}": {{"url": "..."}}}}, a path, a URL or a data: URL'
        for name in ("image_url", "audio_url")
    },
}


def _audio_data(value: Any) -> str | None:
    """Return OpenAI's sound, base64 with its format, as a `data:` URL."""
    if not isinstance(value, Mapping):
        return None
    data, form = value.get("data"), value.get("format", "wav")
    return f"data:audio/{form};base64,{data}" if isinstance(data, str) and data and isinstance(form, str) else None


def parts_of(message: Mapping[str, Any]) -> list[str | MediaPart]:
    """Return the texts and media of a checked message, in order."""
    given = message.get("content")
    if not isinstance(given, list):
        return [given or ""]
    return [part["text"] if part["type"] == "text" else MediaPart(part["type"], part[part["type"]]) for part in given]


def media_ids(tok: Tokenizer, source: str, form: MediaForm) -> list[int]:
    """Return the ids of a picture or a sound with its two marks.

    The slots between them hold the *byte values* of the source as ids, then padding, as in Qwen-VL's code. Of a source
    that does not fit (a `data:` URL) they hold the SHA-256, so that different pictures have different ids."""
    written = tok.normalize(source).encode()
    if len(written) >= form.slots:
        written = b"sha256:" + hashlib.sha256(written).hexdigest().encode()
    opening, closing = (tok.special_id(mark) for mark in form.marks)
    padding = [tok.special_id(form.pad)] * (form.slots - len(written))
    return [opening, *written, *padding, closing]
