"""The invented world: everything that a family of tiny models is trained and tested on, from one seed.

    world = build_world(seed=0, scale="nano")
    for row in world.chat(): ...

Every method yields the same rows each time it is called. Sizes are a `Scale`, one of `SCALES` or your own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from qwenkit import rng
from qwenkit.errors import UserError, nearest
from qwenkit.nano import chat, eval_sets, instructions, pages, preferences, stdlib, text
from qwenkit.nano.facts import Facts
from qwenkit.records import Row


@dataclass(frozen=True)
class Scale:
    """The amount of everything: rows, bytes of the standard library, test rows per task."""

    pages: int
    stdlib_bytes: int
    text: int
    instructions: int
    chat: int
    pmp_pairs: int
    rl_prompts: int
    reward_prompts: int
    base_test: int
    chat_test: int
    pair_test: int


SCALES = {
    "nano": Scale(4000, 1_500_000, 80_000, 40_000, 40_000, 12_000, 4000, 800, 80, 50, 600),
    "quick": Scale(600, 300_000, 8000, 6000, 6000, 800, 600, 100, 20, 12, 120),
    "tiny": Scale(60, 60_000, 300, 200, 200, 100, 60, 24, 4, 2, 24),
}


@dataclass(frozen=True)
class World:
    """All outputs of the world, as iterators of rows."""

    seed: int
    scale: Scale

    @cached_property
    def facts(self) -> Facts:
        """Return the facts of the world."""
        return Facts(self.seed)

    def pages(self) -> Iterator[Row]:
        """Yield web pages: url, content_type, body (bytes), truth."""
        return pages.pages(self.facts, self.seed, self.scale.pages)

    def stdlib(self) -> Iterator[Row]:
        """Yield documents: modules of Python's standard library."""
        return stdlib.stdlib(self.seed, self.scale.stdlib_bytes)

    def text(self) -> Iterator[Row]:
        """Yield documents of plain text."""
        return text.texts(self.facts, self.seed, self.scale.text)

    def instructions(self) -> Iterator[Row]:
        """Yield documents of questions and answers, for mixing into pretraining."""
        return instructions.instructions(self.facts, self.seed, self.scale.instructions)

    def chat(self) -> Iterator[Row]:
        """Yield chats for supervised fine-tuning."""
        return chat.chats(self.facts, self.seed, self.scale.chat)

    def pmp_pairs(self) -> Iterator[Row]:
        """Yield noisy pairs for preference-model pretraining."""
        return preferences.pmp_pairs(self.facts, self.seed, self.scale.pmp_pairs)

    def prompts(self) -> Iterator[Row]:
        """Yield prompts for RL (`use` "rl") and for reward annotation (`use` "reward", with `candidates`)."""
        return chain(
            chat.prompts(self.facts, self.seed, self.scale.rl_prompts, "rl"),
            preferences.annotation_prompts(self.facts, self.seed, self.scale.reward_prompts),
        )

    def base_test(self) -> Iterator[Row]:
        """Yield texts for a base model to complete, with four choices."""
        return eval_sets.base_test(self.facts, rng.derive_seed(self.seed, "exams"), self.scale.base_test)

    def chat_test(self) -> Iterator[Row]:
        """Yield prompts with references and rubrics that no training text contains."""
        return eval_sets.chat_test(self.facts, rng.derive_seed(self.seed, "exams"), self.scale.chat_test)

    def pair_test(self) -> Iterator[Row]:
        """Yield noise-free pairs by policies that no training pair has."""
        return preferences.test_pairs(self.facts, rng.derive_seed(self.seed, "exams"), self.scale.pair_test)

    def truth(self) -> Iterator[Row]:
        """Yield everything that is true in the world, then what was planted in every page."""
        return chain(self.facts.truth(), (page["truth"] for page in self.pages()))

    def training_texts(self) -> Iterator[str]:
        """Yield every text that training can read, to count what it shares with the tests."""
        yield from (page["truth"]["text"] for page in self.pages())
        yield from (row["text"] for row in chain(self.stdlib(), self.text(), self.instructions()))
        yield from ("\n".join(m["content"] for m in row["messages"]) for row in chain(self.chat(), self.prompts()))
        for row in self.pmp_pairs():
            yield "\n".join([*(m["content"] for m in row["messages"]), row["chosen"], row["rejected"]])

    def test_texts(self) -> Iterator[str]:
        """Yield the questions of all tests, without most of their answers."""
        return eval_sets.test_texts(chain(self.base_test(), self.chat_test(), self.pair_test()))


def build_world(seed: int, scale: str | Scale = "nano") -> World:
    """Return the world of a seed at a scale: "nano", "quick", "tiny", or a `Scale`; raises a `UserError` for another
    name."""
    if isinstance(scale, str):
        if scale not in SCALES:
            raise UserError(f"no scale {scale!r}", expected=", ".join(SCALES), nearest=nearest(scale, SCALES))
        scale = SCALES[scale]
    return World(seed, scale)
