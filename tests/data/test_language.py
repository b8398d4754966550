"""Language identification: short Chinese, whole texts, no network, accuracy on gold sentences."""

from __future__ import annotations

import socket
import tarfile
from pathlib import Path

import pytest

from qwenkit.data import detect_language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("你好", "zh"),
        ("今天天气很好，我们去公园吧。", "zh"),
        ("臺灣的天氣很好", "zh"),
        ("今日はいい天気ですね", "ja"),
        ("안녕하세요", "ko"),
        ("The quick brown fox jumps over the lazy dog.", "en"),
        ("THE TOWN HALL OPENS AT NINE IN THE MORNING", "en"),
        ("Der Zug nach Hamburg fährt um neun Uhr ab.", "de"),
        ("Сегодня хорошая погода.", "ru"),
        ("小明用 Python 写了一个程序 (hello world)，老师很高兴。", "zh"),
    ],
)
def test_sentences(text: str, language: str) -> None:
    assert detect_language(text)[0] == language


@pytest.mark.parametrize("text", ["", "  \n", "12 + 30 = 42", "!!! ???", "https://example.org/a"])
def test_no_letters_is_undetermined(text: str) -> None:
    assert detect_language(text) == ("und", 0.0)


def test_the_whole_text_counts_not_its_first_80_characters() -> None:
    assert detect_language("Bonjour tout le monde. " + "The rest of this page is written in English. " * 20)[0] == "en"


def test_no_socket_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwenkit.data import language

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    language._model.cache_clear()
    assert detect_language("Offline it must work as well, and so it does.")[0] == "en"


def test_gold_sentences(real_data: Path) -> None:
    known = ("en", "zh", "ja", "ko", "de", "fr", "es", "ru", "ar", "it", "pt", "nl", "pl", "vi", "th", "he", "el", "tr")
    right = total = 0
    with tarfile.open(real_data / "langid_lingua" / "testdata.tar.xz") as archive:
        for member in archive:
            language = Path(member.name).parent.name
            if language in known and member.name.endswith("sentences.txt"):
                file = archive.extractfile(member)
                assert file is not None
                lines = file.read().decode().splitlines()[:100]
                right += sum(detect_language(line)[0] == language for line in lines)
                total += len(lines)
    assert total > 1500 and right / total > 0.97


def test_a_long_text_is_judged_by_pieces_from_all_over_it() -> None:
    english = "The ships of the northern lords followed the river until they came to the harbour of the town. "
    chinese = "北方领主的船只沿着河流把木材运到小镇的港口，人们都在那里等着。"
    assert detect_language(chinese) == ("zh", 1.0)  # which the model takes for Ukrainian
    mostly_chinese = english * 30 + chinese * 3000
    assert detect_language(mostly_chinese)[0] == "zh" and detect_language(english * 3000 + chinese * 30)[0] == "en"
