"""From the options of `qwenkit bench --url` to a load test, and what is wrong with them."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from qwenkit.errors import UserError

if TYPE_CHECKING:
    from qwenkit.serving.load.loops import LoadPlan
    from qwenkit.serving.load.measures import Objectives
    from qwenkit.serving.load.requests import Requests
    from qwenkit.serving.load.sender import Target

KEY_VARIABLE = "QWENKIT_API_KEY"
CLIENTS, SECONDS, TOKENS, TIMEOUT, MOST_CLIENTS = 8, 30.0, "64", 600.0, 10_000
_SILENCE = 120.0


@dataclass(frozen=True)
class LoadSettings:
    """The options as they were given; None or False: not given."""

    url: str | None
    model: str | None
    key_variable: str | None
    clients: int | None
    rate: float | None
    requests: int | None
    duration: float | None
    timeout: float | None
    slo_ttft: float | None
    slo_itl: float | None
    out: Path | None
    plot: Path | None
    api: str | None
    prompts: Path | None
    prompt_tokens: str | None
    answer_tokens: str | None
    ignore_eos: bool
    body: str | None
    seed: int | None

    def refuse(self) -> None:
        """Raise a `UserError` for the first option that is given: there is no server."""
        for field in fields(self):
            if getattr(self, field.name) not in (None, False):
                raise UserError(f"--{field.name.replace('_', '-')} without a server", where="qwenkit bench",
                                expected="--url URL with it")  # fmt: skip


@dataclass(frozen=True)
class LoadTest:
    """What is asked, whom, and what is made of the answers."""

    target: Target
    plan: LoadPlan
    requests: Requests
    objectives: Objectives | None
    out: Path | None
    plot: Path | None


def load_test(given: LoadSettings) -> LoadTest:
    """Return the test that the options describe; raises a `UserError`."""
    from qwenkit.serving.load.measures import Objectives
    from qwenkit.serving.load.plot import check_suffix
    from qwenkit.serving.load.requests import Lengths, made_requests, read_api, read_requests
    from qwenkit.serving.load.sender import Target

    api = read_api(given.api or "chat", "--api")
    if given.plot is not None:
        check_suffix(given.plot)
    _check_folders(given)
    answers = Lengths.parse(given.answer_tokens or TOKENS, "--answer-tokens")
    asked = Lengths.parse(given.prompt_tokens or TOKENS, "--prompt-tokens")
    if given.prompts is not None and given.prompt_tokens is not None:
        raise UserError("--prompts and --prompt-tokens", where="qwenkit bench", expected="one of them")
    seed = given.seed or 0
    made = made_requests(seed, asked, answers)
    requests = made if given.prompts is None else read_requests(given.prompts, answers, seed, api)
    timeout = TIMEOUT if given.timeout is None else given.timeout
    common = {**({"ignore_eos": True} if given.ignore_eos else {}), **read_body(given.body)}
    target = Target(
        given.url or "", api, given.model, read_key(given.key_variable or KEY_VARIABLE), common,
        silence_seconds=min(_SILENCE, timeout), request_seconds=timeout,
    )  # fmt: skip
    target.base()
    limits = [None if limit is None else limit / 1000 for limit in (given.slo_ttft, given.slo_itl)]
    objectives = None if limits == [None, None] else Objectives(*limits)
    plan = load_plan(given.clients, given.rate, given.requests, given.duration, seed)
    return LoadTest(target, plan, requests, objectives, given.out, given.plot)


def _check_folders(given: LoadSettings) -> None:
    """Raise a `UserError` for a file in a folder that is not there: before the test, not after it."""
    for path in (given.out, given.plot):
        if path is not None and not path.parent.is_dir():
            raise UserError("there is no such folder", where=str(path.parent))


def read_key(variable: str) -> str | None:
    """Return the key of the environment, None for none; raises a `UserError` for one that no header can hold."""
    key = os.environ.get(variable) or None
    if key is not None and not (key.isascii() and key.isprintable()):
        raise UserError("this key is not one line of ASCII", where=variable)
    return key


def read_body(text: str | None) -> dict[str, object]:
    """Return the fields that every request has besides its own; raises a `UserError`."""
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError("this is not a JSON object", where="--body", expected="""such as '{"temperature": 0}'""")
    return value


def load_plan(
    clients: int | None, rate: float | None, requests: int | None, duration: float | None, seed: int
) -> LoadPlan:
    """Return who asks and how long; raises a `UserError` for two kinds of load at once."""
    from qwenkit.serving.load.loops import LoadPlan

    if clients is not None and rate is not None:
        raise UserError("--clients and --rate", where="qwenkit bench", expected="one of them",
                        hint="clients ask again when they were answered, requests at a rate in any case")  # fmt: skip
    for name, value in (("--rate", rate), ("--duration", duration)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name} {value:g}", expected="a number above 0")
    if requests is None and duration is None:
        duration = SECONDS
    return LoadPlan(clients=clients or CLIENTS, rate=rate, requests=requests, duration=duration, seed=seed)
