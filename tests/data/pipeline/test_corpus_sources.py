"""The sources of a corpus: named after the recipe's keys, with what the recipe says of each; mistakes are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwenkit.data.pipeline.config import CorpusConfig, ScoreSettings, check_settings, least_scores
from qwenkit.data.pipeline.corpus_sources import WORLD, SourceSettings, check_sources, make_sources, source_names
from qwenkit.errors import UserError


def test_a_worlds_files_and_texts_of_ones_own(tmp_path: Path) -> None:
    settings = SourceSettings(
        kinds={"extra1": "web"}, text_keys={"extra1": ("question", "answer")}, licences={"extra": "MIT"},
        upsample={"stdlib": 2.0, "extra": 0.5},
    )  # fmt: skip
    sources = make_sources([tmp_path / name for name, _, _ in WORLD], [tmp_path / "a", tmp_path / "b"], settings)
    names = ["pages", "text", "instructions", "stdlib", "extra", "extra1"]
    assert [source.name for source in sources] == names == source_names(True, 2)
    assert [source.kind for source in sources] == ["html", "text", "instruction", "code", "auto", "web"]
    assert [source.weight for source in sources] == [1.0, 1.0, 1.0, 2.0, 0.5, 1.0]
    assert [source.licence for source in sources][3:] == ["PSF-2.0", "MIT", "unknown"]
    assert sources[5].text_keys == ("question", "answer") and sources[4].text_keys == ()


@pytest.mark.parametrize(
    ("names", "keys", "what"),
    [
        ([], {}, "no sources"),
        (["extra"], {"kinds": {"extra1": "web"}}, "`kinds` names no source: extra1; there are extra"),
        (["extra"], {"upsample": {"extra": 0.0}}, "wants 0 copies"),
        (["extra"], {"upsample": {"extra": 1e6}}, "wants 1e\\+06 copies"),
        (["extra"], {"kinds": {"extra": "wep"}}, "nearest: web"),
    ],
)
def test_settings_of_sources_that_cannot_be(names: list[str], keys: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        check_sources(names, SourceSettings(**keys))


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"languages": ("xx",)}, "`xx` is not a language"),
        ({"rules": ("goper",)}, "nearest: gopher"),
        ({"thresholds": {"lenght": (1, 2)}}, "nearest: length"),
        ({"thresholds": {"length": (2, 1)}}, r"thresholds.length = \[2, 1\]"),
        ({"steps": ("nowhere_at_all:step",)}, "no such file"),
    ],
)
def test_settings_that_cannot_be(keys: dict[str, Any], what: str) -> None:
    check_settings(CorpusConfig())
    with pytest.raises(UserError, match=what):
        check_settings(CorpusConfig(**keys))


def test_a_filter_has_its_own_least_score_or_that_of_all() -> None:
    settings = ScoreSettings(min_score=0.2, min_scores={"filter1": 0.5})
    assert least_scores(["a.npz", "b.npz"], ["filter", "filter1"], settings) == (("a.npz", 0.2), ("b.npz", 0.5))
