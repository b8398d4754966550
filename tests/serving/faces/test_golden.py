"""What each API sends, byte by byte."""

from __future__ import annotations

import json

import pytest

from tests.serving.faces.cases import CASES, GOLDEN, REPLY


@pytest.mark.parametrize("name", CASES)
def test_the_codec_writes_what_the_golden_file_has(name):
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(CASES[name].golden())) == golden


def test_every_golden_file_has_a_case():
    assert sorted(path.stem for path in GOLDEN.iterdir()) == sorted(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_frame_is_one_event_on_lines_of_its_own(name):
    for frame in CASES[name].frames():
        assert frame.endswith("\n\n") and "\n\n" not in frame[:-2]
        assert all(line.startswith(("data: ", "event: ")) for line in frame[:-2].splitlines())  # all of Unicode's ends


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.streamed and "tokens" not in name])
def test_the_stream_is_the_same_however_the_events_are_grouped(name):
    case = CASES[name]
    stream = case.codec.Stream(case.codec.parse({**case.body, "stream": True}), REPLY)
    assert stream.push(case.events) == case.frames()
