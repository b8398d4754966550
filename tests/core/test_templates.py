"""Templates of others: what fails is told in words, what is hostile is ended, what is fine is the same apart."""

from __future__ import annotations

import os
from typing import Any

import pytest

from qwenkit import templates
from qwenkit.errors import UserError

GIVEN: dict[str, Any] = {"messages": [{"role": "user", "content": "hi \ud83d\ude00"}], "tools": None}
FAILING = {
    "{{ 1/0 }}": "division by zero",
    "{{ range(10**9)|list }}": "Range too big",
    "{% macro r() %}{{ r() }}{% endmacro %}{{ r() }}": "calls itself without end",
    "{{ 'a'.encode('nope') }}": "unknown encoding",
    "{{ 'é'.encode('ascii') }}": "can't encode",
    "{{ 9.9**9999 }}": "out of range",
    "{{ [1,2]|slice(0)|list }}": "by zero",
    "{{ 'abc'.index('z') }}": "not found",
    "{{ none|length }}": "'none' has no len",
    "{{ messages.foo.bar }}": "no attribute",
    "{{ 'a' * 10**10 }}": "too much memory",
    "{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}": "more than 67108864 characters",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}": "does not compile: it goes too deep",
    "{% if 1 %}" * 3000 + "{% endif %}" * 3000: "does not compile",
    "{% for": "does not compile",
    "{% include 'x' %}": "no loader",
    "{{ raise_exception('not so') }}": "refuses this conversation: not so",
    "x" * (1 << 20) + "y": "more than 1048576 characters",
}


@pytest.mark.parametrize("template", FAILING, ids=lambda template: template[:30])
def test_a_failing_template_is_told_in_words(template: str) -> None:
    with pytest.raises(UserError, match=FAILING[template]) as caught:
        templates.render(template, GIVEN)
    assert "Error" not in str(caught.value) and "NoneType" not in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    ],
    ids=["loops", "lists in lists"],
)
def test_a_template_without_end_is_ended(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    templates.render("{{ 1 }}", {})  # the process is there
    monkeypatch.setattr(templates, "SECONDS", 0.3)
    for _ in range(templates.TRIES):
        with pytest.raises(UserError, match=r"does not end|more than it may have"):
            templates.render(template, GIVEN)
    with pytest.raises(UserError, match="is not run again"):
        templates.render(template, GIVEN)
    monkeypatch.undo()
    assert templates.render("{{ 1 }}", {}) == "1"  # the next one is served


def test_apart_and_in_place_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}{{ m|tojson }}{% endfor %}{{ '\\ud800' }}"
    apart = templates.render(template, GIVEN)
    monkeypatch.setattr(templates, "_trusted", {template})
    assert templates.render(template, GIVEN) == apart
    assert templates.names_read(template) == frozenset({"messages"})
    monkeypatch.undo()
    assert templates.names_read(template) == frozenset({"messages"})


def test_a_fork_has_a_process_of_its_own() -> None:
    assert templates.render("{{ 1 }}", {}) == "1"
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if templates.render("{{ 2 }}", {}) == "2" else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert templates.render("{{ 3 }}", {}) == "3"
