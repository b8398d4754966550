"""The compression report: numbers that can be counted by hand, unused tokens, scripts, and the forms it takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from qwenkit.errors import UserError
from qwenkit.tokenizer import Tokenizer, extend_bpe, save_tokenizer
from qwenkit.tokenizer.bytes_per_token import markdown, measure
from qwenkit.tokenizer.figure import draw, page
from qwenkit.tokenizer.vocabulary import Foreign, composition, open_coder, script, unreachable

GREEK = ["Όλοι οι άνθρωποι γεννιούνται ελεύθεροι.", "και ίσοι στην αξιοπρέπεια", "και τα δικαιώματα"] * 4
TEXTS = {"el": GREEK, "zh": ["语言模型", "通义千问"], "code": ["def add(a, b):\n    return a + b\n"]}


@pytest.fixture(scope="module")
def longer(tiny: Tokenizer) -> Tokenizer:
    return extend_bpe(tiny, GREEK, 30)


def test_the_numbers_are_those_counted_by_hand(tiny: Tokenizer, longer: Tokenizer) -> None:
    report = measure({"old": tiny, "new": longer}, TEXTS, "old")
    for name, tok in (("old", tiny), ("new", longer)):
        for group, texts in TEXTS.items():
            cell = report.of(name, group)
            tokens = sum(len(tok.encode(text)) for text in texts)
            size = sum(len(text.encode()) for text in texts)
            assert (cell.documents, cell.bytes, cell.tokens) == (len(texts), size, tokens)
            assert cell.bytes_per_token.mean == pytest.approx(size / tokens)
            base = sum(len(tiny.encode(text)) for text in texts)
            assert cell.relative.mean == pytest.approx(tokens / base)
    inside = report.of("new", "el").relative
    assert inside.low is not None and inside.high is not None and inside.low <= inside.mean <= inside.high < 0.8
    assert report.of("new", "code").bytes_per_token.low is None, "of one document nothing is known beyond it"


def test_unused_tokens_are_listed(tiny: Tokenizer, longer: Tokenizer) -> None:
    report = measure({"new": longer}, TEXTS, "new", rare_below=3)
    used: dict[int, int] = {}
    for texts in TEXTS.values():
        for text in texts:
            for i in longer.encode(text):
                used[i] = used.get(i, 0) + 1
    (found,) = report.inventories
    assert found.never == [i for i in sorted(longer.ranks.values()) if i not in used]
    assert found.rare == [i for i in sorted(longer.ranks.values()) if 0 < used.get(i, 0) < 3]
    assert sum(found.scripts.values()) == found.size == len(longer.ranks)


def test_tokens_that_no_text_gives_are_found() -> None:
    """Two digits (the pattern cuts them), a decomposed letter (NFC joins it)."""
    extra = {b"12": 256, "e\u0301".encode(): 257, b"ab": 258}
    tok = Tokenizer({bytes([b]): b for b in range(256)} | extra, {"<|endoftext|>": 259})
    assert unreachable(tok) == [256, 257]


def test_scripts() -> None:
    told = {"Han": "语言", "Hangul": "한", "Thai": "ก", "Latin": "é", "ASCII": " the", "other": "😀", "Cyrillic": "да"}
    assert {name: script(text.encode()) for name, text in told.items()} == {name: name for name in told}
    assert script(b"\xe4\xbd") == "part of a character"


def test_the_true_vocabulary_by_script(qwen: Tokenizer) -> None:
    found = composition(qwen.tokens().values())
    assert (found["ASCII"], found["part of a character"]) == (94358, 1448)
    later = composition(token for i, token in qwen.tokens().items() if i >= 99156)
    assert sum(later.values()) == 52487 and later["part of a character"] == 675
    assert qwen.ranks["็น".encode()] in qwen.encode("เป็น") and qwen.ranks["เป็น".encode()] in unreachable(qwen)


def test_any_other_tokenizer_is_counted(tmp_path: Path, tiny: Tokenizer) -> None:
    words = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "语": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    coder = open_coder(tmp_path)
    assert isinstance(coder, Foreign) and coder.encode_batch(["a b 语"]) == [[1, 0, 2]]
    report = measure({"ours": tiny, "theirs": coder}, {"x": ["a b", "语 a"]}, "ours")
    assert report.of("theirs", "x").tokens == 4 and report.inventories[1].unreachable is None


def test_pieces_of_sentencepiece_are_spelled_out(tmp_path: Path) -> None:
    vocab = [("<unk>", 0.0), ("\u2581the", -1.0), ("<0x0A>", -2.0), ("語", -3.0)]
    tok = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    tok.decoder = decoders.Metaspace()
    tok.save(str(tmp_path / "tokenizer.json"))
    assert Foreign(tmp_path / "tokenizer.json").tokens() == {0: b"<unk>", 1: b" the", 2: b"\n", 3: "語".encode()}


def test_a_folder_of_ours_is_opened_as_ours(tiny: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tiny, tmp_path)
    assert isinstance(open_coder(tmp_path), Tokenizer)
    with pytest.raises(UserError, match="no such file or folder"):
        open_coder(tmp_path / "absent")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        open_coder(tmp_path / "broken.json")


def test_all_forms_tell_the_same_and_are_the_same_again(tiny: Tokenizer, longer: Tokenizer) -> None:
    report = measure({"old": tiny, "new": longer}, TEXTS, "old")
    text, svg, html = markdown(report), draw(report), page(report)
    number = f"{report.of('new', 'el').relative.mean:.3f}"
    assert number in text and number in html
    assert b"<svg" in svg and b"relative to old" in svg and draw(report) == svg
    assert not re.search(r'(src|href)="(http|//)|url\(http|@import', html), "the page asks the network for something"
    plain = json.loads(json.dumps(report.plain()))
    assert plain["cells"][1]["relative"]["mean"] == report.cells[1].relative.mean


def test_mistakes_are_named(tiny: Tokenizer) -> None:
    with pytest.raises(UserError, match="the baseline 'ol' is none of"):
        measure({"old": tiny}, TEXTS, "ol")
    with pytest.raises(UserError, match="no text of zh"):
        measure({"old": tiny}, {"zh": ["", ""]}, "old")


def test_documents_without_text_are_left_out(tiny: Tokenizer) -> None:
    cell = measure({"old": tiny}, {"el": ["", *GREEK, *[""] * 40]}, "old").of("old", "el")
    assert cell == measure({"old": tiny}, {"el": GREEK}, "old").of("old", "el")


def test_scripts_come_in_one_order(tiny: Tokenizer, longer: Tokenizer) -> None:
    """Scripts that the first vocabulary lacks stood in the order of a set, another in every process."""
    text = markdown(measure({"tiny": tiny, "longer": longer}, TEXTS, "tiny"))
    rows = [line.strip("| ").split(" | ") for line in text.split("## ")[3].splitlines()[4:] if line]
    assert rows == sorted(rows, key=lambda row: (-int(row[1]), -int(row[2]), row[0]))
