"""Asks a model the items of test sets, and keeps every answer as it comes: a kill costs what was in flight.

    engine = Engine(load_model(path), load_tokenizer(path))
    runner = TaskRunner(engine, Path("log.jsonl"), model="chat", root=Path("data"))
    summary = runner.run(load_task("mmlu"))               # 0.41 [0.40, 0.42] of 14,042 items, as a `Summary`

The log is JSONL: model, task, form, id, hash of the prompt, answer, components, tokens. An item that stands there under
the same hash is not asked again, so that a second start goes on where the first one ended, and a changed prompt is
asked anew. What cannot be asked (a row that does not fit, a prompt longer than the model) is counted as failed, never
as wrong; more than `MOST_FAILED` of them stop the run. Items are asked in the order of their prompts, so that the
engine reads beginnings that they share once. Greedy throughout.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenkit.errors import Stopped, UserError, notice
from qwenkit.evaluation.scorers import Judge, Response, Scored, score
from qwenkit.evaluation.task_data import MissingData, hash_changes
from qwenkit.evaluation.task_files import Task
from qwenkit.evaluation.task_items import TaskItem
from qwenkit.records import Row, dumps, read_jsonl
from qwenkit.sandbox import run_tests
from qwenkit.statistics import mean_interval

if TYPE_CHECKING:
    from qwenkit.inference import Engine

MOST_FAILED = 0.01
"""The largest share of items that may fail."""
BATCH = 64
"""Items that are asked together, and that a kill can cost."""


@dataclass(frozen=True)
class Summary:
    """The number of a task, with its interval of 95 %; None where it was not run or has no right and wrong."""

    task: str
    form: str
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    items: int = 0
    """Items with a verdict."""
    no_verdict: int = 0
    """Items without one: a language that is not installed, an answer for a judge."""
    failed: int = 0
    components: dict[str, float] = field(default_factory=dict)
    """The means of all components; of texts the perplexity of a token and the bits of a byte."""
    not_run: str = ""
    """Why the task was not run."""


class Log:
    """The file of answers, one line an item; a line that a kill cut is taken off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, ...], Row] = {}
        if path.exists():
            _cut(path)
            self.rows = {self.key(row): row for row in read_jsonl(path)}

    @staticmethod
    def key(row: Row) -> tuple[str, ...]:
        """Return what tells an answer from others."""
        return tuple(str(row[name]) for name in ("model", "task", "form", "id", "prompt_hash"))

    def append(self, rows: Iterable[Row]) -> None:
        """Add answers, and flush them to the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            for row in rows:
                file.write(dumps(row).encode() + b"\n")
                self.rows[self.key(row)] = row


def _cut(path: Path) -> None:
    """Take off what stands behind the last line end."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)


class TaskRunner:
    """One model and its log. `chat` asks a chat model by the turns of a form that has them; `judge` runs programs."""

    def __init__(
        self,
        engine: Engine,
        log: Path,
        *,
        model: str,
        root: Path,
        chat: bool = False,
        judge: Judge = run_tests,
        progress: Callable[[int, int, str], object] = lambda done, total, task: None,
    ) -> None:
        self.engine, self.log, self.model, self.root = engine, Log(log), model, root
        self.chat, self.judge, self.progress = chat, judge, progress

    def run(self, task: Task, form: str | None = None, limit: int = 0) -> Summary:
        """Ask what the log has no answer to yet, and return the task's number.

        Raises `Stopped` where more than `MOST_FAILED` of the items failed."""
        name = form or task.default_form
        for source in filter(None, (task.data, task.shots)):
            for file in hash_changes(source, self.root):
                notice(f"not the file that the task `{task.name}` was written for", where=str(self.root / file))
        bad: list[UserError] = []
        try:
            items = list(task.items(self.root, name, limit, bad))
        except MissingData as error:
            return Summary(task.name, name, not_run=error.text())
        waiting = [item for item in items if self._key(item) not in self.log.rows]
        for batch in _batches(sorted(waiting, key=lambda item: (item.contexts or (item.prompt,), item.id))):
            self.log.append(self._answered(batch))
            self.progress(len(items) - len(waiting), len(items), task.name)
        rows = [self.log.rows[self._key(item)] for item in items]
        return _summary(task, name, rows, bad)

    def _key(self, item: TaskItem) -> tuple[str, ...]:
        return self.model, item.task, self._form(item), item.id, item.prompt_hash

    def _form(self, item: TaskItem) -> str:
        return f"{item.form}, chat" if self._is_chat(item) else item.form

    def _is_chat(self, item: TaskItem) -> bool:
        return self.chat and bool(item.messages) and item.ask.kind in ("generate", "code", "answers")

    def _answered(self, batch: list[TaskItem]) -> list[Row]:
        """Return the rows of a batch. Where it cannot be asked as a whole, each item is asked by itself."""
        try:
            responses = self._responses(batch)
        except UserError as error:
            if len(batch) == 1:
                return [self._row(batch[0], Response(), Scored(), error.what)]
            return [row for item in batch for row in self._answered([item])]
        return [
            self._row(item, response, score(item, response, self.judge)) for item, response in zip(batch, responses)
        ]

    def _row(self, item: TaskItem, response: Response, scored: Scored, failure: str = "") -> Row:
        row: Row = {
            "model": self.model, "task": item.task, "form": self._form(item), "id": item.id, "subject": item.subject,
            "prompt_hash": item.prompt_hash, "answer": scored.answer, "components": scored.components,
            "tokens": sum(response.tokens),
        }  # fmt: skip
        more = {"text": response.text, "reason": scored.reason, "failure": failure}
        return row | {name: text for name, text in more.items() if text}

    def _responses(self, batch: Sequence[TaskItem]) -> list[Response]:
        kind = batch[0].ask.kind
        if kind in ("choices", "greedy"):
            return self._scored(batch)
        if kind == "perplexity":
            return [self._read(item.prompt) for item in batch]
        if self._is_chat(batch[0]):
            return [self._conversation(item) for item in batch] if _has_turns(batch) else self._chat(batch)
        outputs = self.engine.generate([item.prompt for item in batch], [self._params(item) for item in batch])
        return [Response(output.text or "", tokens=[len(output.ids)]) for output in outputs]

    def _scored(self, batch: Sequence[TaskItem]) -> list[Response]:
        pairs = [pair for item in batch for pair in item.pairs]
        logprobs = iter(self.engine.score([context for context, _ in pairs], [more for _, more in pairs]))
        responses: list[Response] = []
        for item in batch:
            own = list(itertools.islice(logprobs, len(item.choices)))
            response = Response(logprobs=[math.fsum(one) for one in own], tokens=[len(one) for one in own])
            responses.append(self._followed(item, response) if item.ask.kind == "greedy" else response)
        return responses

    def _followed(self, item: TaskItem, response: Response) -> Response:
        """Return whether the model writes the target, token by token, when it takes its first choices."""
        from qwenkit.inference import SamplingParams

        params = SamplingParams.plain(temperature=0, max_tokens=response.tokens[0])
        (context, target), = item.pairs  # fmt: skip
        output = self.engine.generate([context], params)[0]
        return Response("", response.logprobs, response.tokens, output.text == target)

    def _read(self, text: str) -> Response:
        """Return the log-probability of a text, read in windows as long as the model; each token is predicted once,
        from what its window holds before it."""
        factory = self.engine.request_factory
        ids, size = list(factory.encode(text, "text").ids), factory.max_length
        total, count = 0.0, 0
        for start in range(0, max(1, len(ids) - 1), size - 1):
            (part,) = self.engine.score([ids[start : start + size]])
            total, count = total + math.fsum(part), count + len(part)
        return Response(logprobs=[total], tokens=[count])

    def _chat(self, batch: Sequence[TaskItem]) -> list[Response]:
        conversations = [[{"role": "user", "content": item.messages[0]}] for item in batch]
        outputs = self.engine.chat(conversations, [self._params(item, chat=True) for item in batch])
        return [Response(_content(output.text or ""), tokens=[len(output.ids)]) for output in outputs]

    def _conversation(self, item: TaskItem) -> Response:
        """Answer the turns of a user one after the other; the answers stand in the text as a JSON list."""
        messages: list[dict[str, Any]] = []
        tokens: list[int] = []
        for turn in item.messages:
            messages.append({"role": "user", "content": turn})
            output = self.engine.chat([messages], self._params(item, chat=True))[0]
            messages.append({"role": "assistant", "content": _content(output.text or "")})
            tokens.append(len(output.ids))
        return Response(
            json.dumps([message["content"] for message in messages[1::2]], ensure_ascii=False), tokens=tokens
        )

    def _params(self, item: TaskItem, chat: bool = False) -> Any:
        from qwenkit.inference import SamplingParams

        stop = () if chat else item.ask.stop  # a chat model ends its turn by itself
        return SamplingParams.plain(temperature=0, max_tokens=item.ask.max_tokens, stop=stop)


def _has_turns(batch: Sequence[TaskItem]) -> bool:
    return any(len(item.messages) > 1 for item in batch)


def _content(text: str) -> str:
    """Return an answer without its thoughts."""
    return text.rpartition("</think>")[2].lstrip("\n")


def _batches(items: Sequence[TaskItem]) -> Iterable[list[TaskItem]]:
    for start in range(0, len(items), BATCH):
        yield list(items[start : start + BATCH])


def _summary(task: Task, form: str, rows: list[Row], bad: list[UserError]) -> Summary:
    failures = [row for row in rows if "failure" in row]
    failed = len(failures) + len(bad)
    if failed > MOST_FAILED * (len(rows) + len(bad)):
        first = bad[0].text() if bad else f"{failures[0]['id']}: {failures[0]['failure']}"
        raise Stopped(
            f"{failed} of {len(rows) + len(bad)} items of `{task.name}` could not be asked, the first: {first}",
            expected=f"at most {MOST_FAILED:.0%}",
        )
    scored = [row for row in rows if row["components"]]
    summary = Summary(task.name, form, items=len(scored), failed=failed,
                      no_verdict=len(rows) - len(failures) - len(scored))  # fmt: skip
    if not scored:
        return summary
    if task.form(form).kind == "perplexity":
        nats, size, tokens = (
            math.fsum(row["components"][name] for row in scored) for name in ("nats", "bytes", "tokens")
        )
        components = {"perplexity": math.exp(nats / tokens), "bits_per_byte": nats / size / math.log(2)}
        return Summary(**{**asdict(summary), "components": components})
    names = scored[0]["components"]
    components = {name: math.fsum(row["components"][name] for row in scored) / len(scored) for name in names}
    mean, low, high = _interval(scored, task.form(form).aggregate)
    return Summary(**{**asdict(summary), "components": components, "mean": mean, "low": low, "high": high})


def _interval(rows: list[Row], aggregate: str) -> tuple[float, float | None, float | None]:
    """Return a task's mean with its interval: Wilson's over all items; over subjects the normal one of the mean of
    their means, whose variances count one success and one failure more than there were."""
    if aggregate == "items":
        mean, low, high, _ = mean_interval([row["components"]["right"] for row in rows])
        return mean, low, high
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row["subject"], []).append(row["components"]["right"])
    mean = math.fsum(math.fsum(group) / len(group) for group in groups.values()) / len(groups)
    variance = 0.0
    for group in groups.values():
        share = (math.fsum(group) + 1) / (len(group) + 2)
        variance += share * (1 - share) / len(group)
    half = 1.96 * math.sqrt(variance) / len(groups)
    return mean, max(0.0, mean - half), min(1.0, mean + half)
