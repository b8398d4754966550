"""Who lives in the invented world, and what is true of them: under 300 entities, every name in English and Chinese.

    facts = Facts(seed)
    facts.people[0].name("en"), facts.value(person, "job", "zh"), facts.fact(draw, person, "job", "en")

A quarter of the people are *held out*: texts tell their facts, but no chat or instruction ever asks for them, and two
phrasings of each fact (`only_train`) are never used for them. So a test question about them can only be answered by a
model that read the pages. Names of passing characters, pairs of summands and lists of words are split by a hash.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from qwenkit import rng
from qwenkit.nano.row_rng import RowRng
from qwenkit.records import Row

LANGUAGES = ("en", "zh")
RELATIONS = ("job", "city", "pet")
HELD_OUT = 0.25


@cache
def table(name: str) -> dict[str, Any]:
    """A table of the package: `words` or `phrases`."""
    return tomllib.loads(files("qwenkit.nano").joinpath(f"{name}.toml").read_text("utf-8"))


def phrases(kind: str, language: str) -> Any:
    """The phrases of one kind in one language: a table of lists, or one list."""
    return table("phrases")[kind][language]


def values(kind: str, language: str) -> list[str]:
    """All names of one kind of thing in one language."""
    return [pair[LANGUAGES.index(language)] for pair in table("words")[kind]]


def split_of(*parts: str | int) -> str:
    """ "test" for a tenth of all things, "train" for the rest: decided by their own hash, so nothing can be in both."""
    return "test" if rng.derive_seed(0, "split", *parts) % 10 == 0 else "train"


@dataclass(frozen=True)
class Entity:
    """A person or a city. `facts` holds indices into the word tables, or years, or positions of other people."""

    id: str
    names: tuple[str, str]
    facts: dict[str, int]
    held_out: bool = False

    def name(self, language: str) -> str:
        return self.names[LANGUAGES.index(language)]


class Facts:
    """The world's people and cities and everything that is true of them, from one seed."""

    def __init__(self, seed: int) -> None:
        words = table("words")
        self.people = [self._person(seed, i, words) for i in range(len(words["people"]))]
        self.cities = [self._city(seed, i, words) for i in range(len(words["cities"]))]

    def _person(self, seed: int, i: int, words: dict[str, Any]) -> Entity:
        draw, count = RowRng(rng.derive_seed(seed, "person"), i), len(words["people"])
        held_out = set(rng.permutation(rng.derive_seed(seed, "held out"), count)[: round(count * HELD_OUT)].tolist())
        facts = {
            "job": draw.integer(0, len(words["jobs"]) - 1),
            "city": draw.integer(0, len(words["cities"]) - 1),
            "pet": draw.integer(0, len(words["pets"]) - 1),
            "year": draw.integer(1900, 1989),
            "friend": (i + draw.integer(1, count - 1)) % count,
            "sibling": i ^ 1,
        }
        return Entity(f"person-{i:02d}", tuple(words["people"][i]), facts, i in held_out)

    def _city(self, seed: int, i: int, words: dict[str, Any]) -> Entity:
        draw = RowRng(rng.derive_seed(seed, "city"), i)
        facts = {
            "river": draw.integer(0, len(words["rivers"]) - 1),
            "fruit": draw.integer(0, len(words["fruits"]) - 1),
            "founded": draw.integer(1100, 1899),
        }
        return Entity(f"city-{i:02d}", tuple(words["cities"][i]), facts)

    def value(self, entity: Entity, relation: str, language: str) -> str:
        """What is true of an entity, as a word."""
        fact = entity.facts[relation]
        if relation in ("friend", "sibling"):
            return self.people[fact].name(language)
        if relation in ("year", "founded"):
            return str(fact)
        return values({"city": "cities"}.get(relation, relation + "s"), language)[fact]

    def fact(self, draw: RowRng, entity: Entity, relation: str, language: str) -> str:
        """A sentence that tells one fact."""
        forms: Any = phrases(relation, language)
        if relation in RELATIONS:
            forms = forms["told"] + ([] if entity.held_out else forms["only_train"])
        value = self.value(entity, relation, language)
        return draw.pick(forms).format(n=entity.name(language), v=value, m=value)

    def sentence(self, draw: RowRng, entity: Entity, language: str) -> str:
        """Any fact of an entity; those that can be asked for are told twice as often."""
        relations = [*entity.facts, *(relation for relation in RELATIONS if relation in entity.facts)]
        return self.fact(draw, entity, draw.pick(relations), language)

    def known(self) -> list[Entity]:
        """People whose facts may be asked for in training."""
        return [person for person in self.people if not person.held_out]

    def held_out(self) -> list[Entity]:
        return [person for person in self.people if person.held_out]

    def truth(self) -> list[Row]:
        """Everything that is true, as rows for truth.jsonl."""
        return [
            {"id": entity.id, "held_out": entity.held_out} | {lang: self._all(entity, lang) for lang in LANGUAGES}
            for entity in (*self.people, *self.cities)
        ]

    def _all(self, entity: Entity, language: str) -> dict[str, str]:
        """An entity's name and facts in one language."""
        return {"name": entity.name(language)} | {r: self.value(entity, r, language) for r in entity.facts}
