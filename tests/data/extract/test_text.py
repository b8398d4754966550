"""Text out of pages: right characters under wrong headers, main content with its structure, scores on gold pages."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.data.extract.text import extract_text, tidy
from qwenkit.data.readers.encoding import decode
from qwenkit.data.text_units import units

WRITING = {
    "zh": ("杭州今天下雨，小明的姐姐是一位医生，她住在西湖旁边。", ("gb18030",)),
    "zh-Hant": ("臺灣的天氣今天很好，我們一起去公園散步吧。", ("big5",)),
    "ja": ("今日はとても良い天気ですね。公園に行きましょう。", ("shift_jis", "euc-jp")),
    "ko": ("오늘은 날씨가 아주 좋습니다. 산책을 갑시다.", ("euc-kr",)),
    "fr": ("Le café était fermé à cause de la fête nationale; très désolé, mon garçon.", ("latin-1", "cp1252")),
    "de": ("Die Bäume im Süden blühen früh, schöne Grüße aus Österreich.", ("latin-1",)),
    "ru": ("Привет, как твои дела? Сегодня хорошая погода в Москве.", ("cp1251", "koi8-r")),
    "el": ("Σήμερα ο καιρός είναι πολύ καλός στην Αθήνα.", ("iso-8859-7",)),
}
CASES = [(text, encoding) for text, encodings in WRITING.values() for encoding in encodings]


@pytest.mark.parametrize("claim", [None, "utf-8", "iso-8859-1", "gbk", "no-such-charset"])
@pytest.mark.parametrize(("text", "encoding"), CASES)
def test_wrong_headers_do_not_matter(text: str, encoding: str, claim: str | None) -> None:
    page = f'<html><meta charset="utf-8"><body class=x><p>{text}</p></body></html>'
    assert text in decode(page.encode(encoding), claim)


@given(st.text(min_size=1))
def test_utf8_is_always_utf8(text: str) -> None:
    text = text.lstrip("\ufeff").encode("utf-8", "ignore").decode()
    assert decode(text.encode(), "gbk") == text


def test_a_few_bad_bytes_do_not_turn_utf8_into_something_else() -> None:
    data = ("今天天气很好。" * 20).encode() + b"\xff caf\xe9"
    assert decode(data, "latin-1").startswith("今天天气很好。" * 20)


def test_byte_order_marks() -> None:
    assert decode("\ufeffhé".encode("utf-16-le")) == "hé" and decode("\ufeffhé".encode()) == "hé"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "iso2022_jp"])
def test_encodings_without_a_mark(encoding: str) -> None:
    page = f"<html><body><p>{WRITING['ja'][0]}</p></body></html>"
    assert decode(page.encode(encoding)) == page
    assert decode(b"a\x1b$Bcolour\x1b[0m \0") == "a\x1b$Bcolour\x1b[0m \0"


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=300))
def test_any_bytes_give_some_text(data: bytes) -> None:
    text = extract_text(data, encoding="latin-1")
    assert isinstance(text, str) and extract_text(data, encoding="latin-1") == text


PAGE = """<html><head><title>T</title><script>var x = "secret";</script></head><body>
<nav><ul><li><a href=/>Home</a><li><a href=/a>About us</a><li><a href=/b>Imprint</a></ul></nav>
<article><h1>The river Aln</h1>
<p>The river rises in the hills above the town and runs for forty miles to the sea. It has been fished for centuries.
<p>Three things are needed for fishing here, and each of them can be bought in the town:
<ul><li>a licence from the town hall</li><li>a rod of at least two metres</li><li>patience and a warm coat</li></ul>
<table><tr><th>Month<th>Fish<tr><td>May<td>Trout<tr><td>June<td>Salmon</table>
<p>The following program prints the season, and it was written by a fisherman:
<pre><code>for month in season:
    print(month)
</code></pre>
<p>河流从山上流下来，经过小镇，最后流入大海。人们在这里钓鱼已经有几百年了。
</article><footer>Copyright 2026 <a href=/terms>Terms</a></footer></body></html>"""


def test_lists_tables_and_code_stay_readable() -> None:
    text = extract_text(PAGE)
    assert "forty miles to the sea" in text and "河流从山上流下来" in text
    assert "a rod of at least two metres\n" in text
    assert [line for line in text.split("\n") if "May" in line and "Trout" in line and "June" not in line]
    assert "for month in season:\n    print(month)" in text
    assert "secret" not in text and "<" not in text and "Imprint" not in text


def test_open_title_does_not_swallow_the_page() -> None:
    assert "forty miles" in extract_text(PAGE.replace("</title>", ""))


def test_nothing_in_nothing_out() -> None:
    assert extract_text("") == "" and extract_text(b"   ") == "" and extract_text("<html></html>") == ""


@given(st.text())
def test_tidy_is_idempotent(text: str) -> None:
    once = tidy(text)
    assert tidy(once) == once and "\n\n\n" not in once and "\r" not in once


def test_gold_articles(real_data: Path) -> None:
    folder = real_data / "web_article_benchmark"
    gold = json.loads(gzip.decompress((folder / "ground-truth.json.gz").read_bytes()))
    scores = []
    with tarfile.open(folder / "html.tar.xz") as archive:
        for member in [entry for entry in archive if entry.name.endswith(".html")][:40]:
            file = archive.extractfile(member)
            assert file is not None
            name = Path(member.name).stem
            scores.append(_f1(extract_text(file.read()), gold[name]["articleBody"]))
    assert sum(scores) / len(scores) > 0.92


def _f1(got: str, gold: str) -> float:
    left, right = (Counter(zip(*(units(text)[offset:] for offset in range(4)))) for text in (got, gold))
    return 2 * (left & right).total() / max(1, left.total() + right.total())
