"""Figures of a server in Prometheus's text format, without a library: counters, gauges and histograms.

    metrics = ServerMetrics()
    metrics.requests.add(1, face="chat_completions", status="200")
    metrics.first_token.observe(0.12, model="nano")
    metrics.text(engines)                                 # the page `/metrics`

Names follow Prometheus's rules: a unit at the end, `_total` for what only grows. What the engines count themselves is
read when the page is asked for. Labels come from the server's own names, never from what a client sent, so there are
only so many series.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

from qwenkit.inference import LoopStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_LENGTHS = tuple(float(1 << power) for power in range(0, 18, 2))
Labels = tuple[tuple[str, str], ...]


class Metric:
    """A name with its series, one for each combination of labels."""

    kind = "gauge"

    def __init__(self, name: str, help: str) -> None:
        """Name a metric; `help` is one line."""
        self.name, self.help, self._values = f"qwenkit_{name}", help, dict[Labels, Any]()

    def lines(self) -> list[str]:
        """Return the metric in the text format."""
        series = [line for labels in sorted(self._values) for line in self._series(labels)]
        return [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} {self.kind}", *series]

    def _series(self, labels: Labels) -> Iterable[str]:
        yield f"{self.name}{_braces(labels)} {_number(self._values[labels])}"


class Gauge(Metric):
    """A number of now."""

    def set(self, value: float, **labels: str) -> None:
        """Set the value of one series."""
        self._values[_key(labels)] = value


class Counter(Metric):
    """A number that only grows."""

    kind = "counter"

    def add(self, amount: float, **labels: str) -> None:
        """Add to one series."""
        key = _key(labels)
        self._values[key] = self._values.get(key, 0) + amount

    def set(self, value: float, **labels: str) -> None:
        """Take over what somebody else counts."""
        self._values[_key(labels)] = value

    def value(self, **labels: str) -> float:
        """Return the value of one series."""
        return self._values.get(_key(labels), 0)


class Histogram(Metric):
    """How many observations lie up to each bound, their number and their sum."""

    kind = "histogram"

    def __init__(self, name: str, help: str, bounds: tuple[float, ...] = _SECONDS) -> None:
        """Name a histogram with the upper bounds of its buckets, in order."""
        super().__init__(name, help)
        self.bounds = bounds

    def observe(self, value: float, count: int = 1, **labels: str) -> None:
        """Count an observation, or several that are equal."""
        counts, total = self._values.setdefault(_key(labels), ([0] * (len(self.bounds) + 1), [0.0]))
        counts[bisect_left(self.bounds, value)] += count
        total[0] += value * count

    def _series(self, labels: Labels) -> Iterable[str]:
        counts, total = self._values[labels]
        below = 0
        for bound, count in zip((*self.bounds, "+Inf"), counts, strict=True):
            below += count
            text = bound if isinstance(bound, str) else _number(bound)
            yield f"{self.name}_bucket{_braces((*labels, ('le', text)))} {below}"
        yield f"{self.name}_sum{_braces(labels)} {_number(total[0])}"
        yield f"{self.name}_count{_braces(labels)} {below}"


class ServerMetrics:
    """All figures of a server."""

    def __init__(self) -> None:
        """Begin to count."""
        self.requests = Counter("requests_total", "Requests that were answered, by interface and HTTP status.")
        self.refused = Counter("refusals_total", "Requests that were refused, by reason.")
        self.disconnects = Counter("disconnects_total", "Requests whose client left before the answer was complete.")
        self.loads = Counter("model_loads_total", "How often a model was loaded.")
        self.first_token = Histogram("time_to_first_token_seconds", "From a request's arrival to its first token.")
        self.inter_token = Histogram("inter_token_latency_seconds", "Between two tokens of an answer.")
        self.duration = Histogram("request_duration_seconds", "From a request's arrival to the end of its answer.")
        self.prompt_length = Histogram("request_prompt_tokens", "Tokens of a prompt.", _LENGTHS)
        self.answer_length = Histogram("request_generated_tokens", "Tokens of an answer.", _LENGTHS)
        self.open = Gauge("requests_open", "Requests that are being read or answered.")
        self.running = Gauge("requests_running", "Requests that have a token and will get more.")
        self.waiting = Gauge("requests_waiting", "Requests that have no token yet: the queue.")
        self.prompt_tokens = Counter("prompt_tokens_total", "Tokens of all prompts.")
        self.generated_tokens = Counter("generated_tokens_total", "Tokens of all answers.")
        self.prefix_asked = Counter("prefix_cache_asked_tokens_total", "Tokens of prompts that entered the batch.")
        self.prefix_found = Counter("prefix_cache_found_tokens_total", "Those that were found in the cache.")
        self.preemptions = Counter("preemptions_total", "How often a request was put back for want of room.")
        self.cache_used = Gauge("kv_cache_used_ratio", "The share of the cache that belongs to requests, 0 to 1.")

    def forget(self, model: str) -> None:
        """Drop the series of an adapter that was unloaded: names that clients give must not add up."""
        for metric in vars(self).values():
            for labels in [labels for labels in metric._values if ("model", model) in labels]:
                del metric._values[labels]

    def text(self, engines: Mapping[str, LoopStats]) -> str:
        """Return the page; `engines` are the figures of the models that are loaded."""
        for gauge in (self.running, self.waiting, self.cache_used):
            gauge._values.clear()  # a model that was unloaded has no number of now
        for model, stats in engines.items():
            self._read(model, stats)
        metrics = [metric for metric in vars(self).values() if isinstance(metric, Metric)]
        return "\n".join(line for metric in metrics for line in metric.lines()) + "\n"

    def _read(self, model: str, stats: LoopStats) -> None:
        """Take over what an engine and its loop count."""
        self.running.set(stats.running, model=model)
        self.waiting.set(stats.waiting, model=model)
        self.prompt_tokens.set(stats.prompt_tokens, model=model)
        self.generated_tokens.set(stats.generated_tokens, model=model)
        engine: Any = stats.engine
        if engine is not None:
            self.prefix_asked.set(engine.prompt_tokens_asked, model=model)
            self.prefix_found.set(engine.prompt_tokens_found, model=model)
            self.preemptions.set(engine.preemptions, model=model)
            self.cache_used.set(engine.kv_tokens_used / max(1, engine.kv_tokens), model=model)


def _key(labels: Mapping[str, str]) -> Labels:
    return tuple(sorted(labels.items()))


def _braces(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
