"""Describe a source of chats: files, splits, forms, roles, lengths, and the rows that would be quarantined.

    description = describe(Path("data"))              # its first rows decide which kind it is
    description = describe(path, "chats", 2000)       # no more than the first 2000 rows
    description.notes()                               # what people should know: files not read, keys without effect

`Summary` has the counts; `qwenkit inspect data` prints them.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from qwenkit.chat.messages import text_of
from qwenkit.data.chats import files, formats, reading
from qwenkit.data.chats.forms import SIDES, TURN_KEYS, Converted, converted
from qwenkit.data.chats.turns import READ, parsed
from qwenkit.errors import UserError
from qwenkit.records import Quarantine, Row

SUSPECTS = frozenset(
    "loss mask masks masked loss_mask loss_weight weights label labels score scores rating quality reward margin"
    " system_prompt system_message chat_template_kwargs enable_thinking documents response_prefix prefix ignore"
    " train_on_input train_on_inputs loss_scale learn split subset".split()
)
"""Keys that look as if they changed what is trained: they have no effect, which is reported."""
_KINDS_TRIED = ("pairs", "chats", "prompts")
_TRIED, _SAMPLE = 20, 200_000


class Sample:
    """Numbers, evenly thinned out where there are many, for their quantiles; the largest is always there."""

    def __init__(self) -> None:
        """Create an empty sample."""
        self.values, self.every, self.count, self.largest, self.total = array("q"), 1, 0, 0, 0

    def add(self, value: int) -> None:
        """Add one number to the sample."""
        if self.count % self.every == 0:
            self.values.append(value)
        self.count, self.total, self.largest = self.count + 1, self.total + value, max(self.largest, value)
        if len(self.values) > _SAMPLE:
            self.values, self.every = self.values[::2], 2 * self.every

    def quantiles(self) -> dict[str, int]:
        """Return the minimum, the quartiles, the 90th and 99th percentile and the maximum."""
        if not self.values:
            return {}
        ordered = sorted(self.values)
        at = {"min": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "90 %": 0.9, "99 %": 0.99}
        return {name: ordered[round(share * (len(ordered) - 1))] for name, share in at.items()} | {"max": self.largest}


@dataclass
class Summary:
    """The description of a source; `complete` where all rows were read. `read` = `kept` + those in the quarantine."""

    kind: str
    files: files.Files
    formats: dict[str, str]
    kept: int = 0
    complete: bool = True
    forms: dict[str, Counter[str]] = field(default_factory=dict)
    roles: Counter[str] = field(default_factory=Counter)
    keys: Counter[str] = field(default_factory=Counter)
    untrained: int = 0
    tools: int = 0
    left_out: int = 0
    characters: Sample = field(default_factory=Sample)
    turns: Sample = field(default_factory=Sample)
    tokens: Sample = field(default_factory=Sample)
    quarantine: Quarantine = field(default_factory=lambda: Quarantine(keep=100))
    first: Row | None = None

    @property
    def read(self) -> int:
        """Return how many rows were read: those kept and those in the quarantine."""
        return self.kept + len(self.quarantine)

    def notes(self) -> list[str]:
        """Return notes that people should know before they train on the source."""
        split = self.files.split if len(self.files.taken) == 1 and self.files.split not in ("", "train") else ""
        lines = [f"{self.files.taken[0].name} calls itself `{split}`: it is read because it was named"] if split else []
        why: dict[str, list[str]] = {}
        for name, reason in self.files.left:
            if not name.startswith((".", "README", "LICENSE")):
                why.setdefault(reason, []).append(name)
        lines += [f"not read: {files.some(names)} ({reason})" for reason, names in why.items()]
        lines += [f"`{key}` stands in {count} of {self.kept} rows and changes nothing here"
                 for key, count in sorted(self.keys.items()) if key.rpartition(".")[2] in SUSPECTS]  # fmt: skip
        if self.left_out:
            lines.append(f"what follows the last answer is left out: {self.left_out} of {self.kept} rows")
        return lines

    def plain(self) -> Row:
        """Return the description as JSON values."""
        return {
            "kind": self.kind,
            "files": [{"file": self.files.named(path), "format": self.formats[self.files.named(path)]}
                      for path in self.files.taken],
            "split": self.files.split or None, "splits": self.files.splits, "not_read": dict(self.files.left),
            "rows": self.read, "complete": self.complete, "kept": self.kept,
            "quarantined": dict(self.quarantine.counts.most_common()), "examples": self.quarantine.rows[:10],
            "forms": {name: dict(counts.most_common()) for name, counts in self.forms.items()},
            "roles": dict(self.roles.most_common()), "with_tools": self.tools, "untrained_answers": self.untrained,
            "keys_not_read": dict(self.keys.most_common()), "turns": self.turns.quantiles(),
            "characters": self.characters.quantiles(), "tokens": self.tokens.quantiles(), "notes": self.notes(),
        }  # fmt: skip


def describe(
    source: reading.Source,
    kind: str | None = None,
    limit: int | None = None,
    check: reading.Check | None = None,
    measure: Callable[[Row], int] | None = None,
    own: Sequence[str] = (),
) -> Summary:
    """Read a source, or its first rows, and return its description; `measure` returns the tokens of a row.

    Raises a `UserError` only where no row can be read."""
    sources = files.find(source, kind or "chats", own)
    parts = reading.splits_of(sources, kind or "chats", 1 << 62)
    kind = kind or _kind_of(parts)
    names = {sources.named(path): " ".join(filter(None, (formats.format_of(path), formats.packing(path))))
             for path in sources.taken}  # fmt: skip
    summary = Summary(kind, sources, names)
    for part in parts:
        left = None if limit is None else limit - summary.read
        forms = summary.forms.setdefault(sources.named(part.path), Counter())
        for raw, row in reading.read_forms(replace(part, kind=kind), summary.quarantine, check, left):
            forms[row.form] += 1
            _count(summary, raw, row, measure)
        if limit is not None and summary.read >= limit:
            summary.complete = False
            break
    return summary


def _count(summary: Summary, raw: Row, result: Converted, measure: Callable[[Row], int] | None) -> None:
    row = result.row
    summary.kept += 1
    summary.first = summary.first or row
    messages = [
        *row["messages"],
        *(row[side] for side in SIDES if summary.kind == "pairs" and not isinstance(row[side], str)),
    ]
    summary.roles.update(message["role"] for message in messages)
    summary.untrained += sum(m["role"] == "assistant" and m.get("weight", 1) == 0 for m in messages)
    summary.tools += bool(row.get("tools"))
    summary.left_out += bool(result.left_out)
    answers = [row[side] for side in SIDES if summary.kind == "pairs" and isinstance(row[side], str)]
    summary.characters.add(sum(len(text_of(m)) for m in messages) + sum(map(len, answers)))
    summary.turns.add(len(row["messages"]))
    if measure is not None:
        summary.tokens.add(measure(row))
    summary.keys.update({key for key, value in raw.items() if key not in result.read and value is not None})
    summary.keys.update(_keys_of_turns(raw))


def _keys_of_turns(raw: Row) -> set[str]:
    """Return the keys of messages that nothing reads, such as `messages.score`."""
    key = next((key for key in TURN_KEYS if raw.get(key)), None)
    try:
        value = parsed(raw[key], key) if key is not None else []
    except UserError:
        return set()
    messages = [message for message in value if isinstance(message, Mapping)] if isinstance(value, list) else []
    return {
        f"{key}.{name}" for message in messages for name in message if name not in READ and message[name] is not None
    }


def _kind_of(parts: list[reading.ChatSplit]) -> str:
    """Return the kind of most of the first rows."""
    sink = Quarantine()
    raws = [raw for part in parts[:1] for _, raw in islice(reading.raw_rows(part, sink), _TRIED)]
    fits = {kind: sum(_fits(raw, kind) for raw in raws) for kind in _KINDS_TRIED}
    best = max(_KINDS_TRIED, key=lambda kind: fits[kind])
    return best if fits[best] else "chats"


def _fits(raw: Row, kind: str) -> bool:
    try:
        converted(raw, kind)
    except UserError:
        return False
    return True
