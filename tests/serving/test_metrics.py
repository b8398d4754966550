"""Prometheus's text format, and what the engines' figures become in it."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from qwenkit.serving.metrics import Histogram, ServerMetrics

LINE = re.compile(r'(# (HELP|TYPE) [a-z_]+ .+)|[a-z_]+(\{([a-z]+="(\\.|[^"\\\n])*",?)*\})? (\d+(\.\d+)?(e[+-]?\d+)?)')


def stats() -> Any:
    figures = SimpleNamespace(
        prompt_tokens_asked=100, prompt_tokens_found=64, preemptions=0, kv_tokens_used=50, kv_tokens=200
    )
    return SimpleNamespace(running=2, waiting=3, prompt_tokens=100, generated_tokens=50, engine=figures)


def test_every_line_is_one_of_the_format() -> None:
    metrics = ServerMetrics()
    metrics.requests.add(1, face="messages", status="200")
    metrics.first_token.observe(0.3, model='a"b\\c\nd')
    text = metrics.text({"nano": stats()})
    assert text.endswith("\n") and all(LINE.fullmatch(line) for line in text.splitlines()), text
    assert 'qwenkit_requests_total{face="messages",status="200"} 1' in text
    assert 'qwenkit_prefix_cache_found_tokens_total{model="nano"} 64' in text
    assert 'qwenkit_kv_cache_used_ratio{model="nano"} 0.25' in text
    assert 'qwenkit_requests_waiting{model="nano"} 3' in text


def test_a_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram("x_seconds", "X.", (0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 2.0):
        histogram.observe(value)
    histogram.observe(0.5, count=3)
    assert histogram.lines()[2:] == [
        'qwenkit_x_seconds_bucket{le="0.1"} 2', 'qwenkit_x_seconds_bucket{le="1"} 6',
        'qwenkit_x_seconds_bucket{le="+Inf"} 7',
        "qwenkit_x_seconds_sum 4.15", "qwenkit_x_seconds_count 7",
    ]  # fmt: skip


def test_a_model_that_was_unloaded_has_no_figures_of_now() -> None:
    metrics = ServerMetrics()
    metrics.text({"nano": stats()})
    text = metrics.text({})
    assert "qwenkit_requests_running{" not in text and 'qwenkit_prompt_tokens_total{model="nano"} 100' in text
