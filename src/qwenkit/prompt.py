"""A prompt as a value: token ids, and the pictures and sounds that some of them stand for.

    Prompt((151644, 872, 198))
    Prompt(ids, (Media("image", "cat.png", start=4, stop=260),))     # ids[4:260] stand for the picture

The chat renderer makes it (`Rendered.prompt`), the engine takes it in place of a list of ids, and `model.embed(prompt)`
turns it into vectors. A model of text refuses a prompt with media by name.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

MediaKind = Literal["image", "audio"]


class Media(NamedTuple):
    """A picture or a sound in a prompt: where it comes from (a path, a URL or a `data:` URL), and the half-open range
    of ids that stand for it."""

    kind: MediaKind
    source: str
    start: int
    stop: int


class Prompt(NamedTuple):
    """Token ids, and the media among them in the order of their places: `images` holds sounds too."""

    ids: tuple[int, ...]
    images: tuple[Media, ...] = ()

    def followed_by(self, other: Prompt) -> Prompt:
        """Return this prompt and another behind it as one."""
        count = len(self.ids)
        moved = (media._replace(start=media.start + count, stop=media.stop + count) for media in other.images)
        return Prompt((*self.ids, *other.ids), (*self.images, *moved))
