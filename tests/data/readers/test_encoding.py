"""Encodings of pages: of every script one text, declared, undeclared and declared falsely."""

from __future__ import annotations

import unicodedata

import pytest

from qwenkit.data.extract.text import extract_text
from qwenkit.data.readers.encoding import decode

TEXTS = {
    "ar": "السوق العائم يفتح قبل شروق الشمس ويأتي الباعة بالقوارب واحدا بعد الآخر، وعلى كل قارب خضار طازجة.",
    "he": "השוק הישן נפתח לפני הזריחה, והסוחרים באים בסירות אחד אחרי השני, ובכל סירה ירקות טריים ופירות.",
    "el": "Η παλιά αγορά ανοίγει πριν από την ανατολή του ήλιου και οι έμποροι έρχονται με βάρκες, ο ένας μετά.",
    "th": "ตลาดน้ำเปิดก่อนพระอาทิตย์ขึ้น และพ่อค้าแม่ค้าพายเรือมาทีละลำ ทุกลำมีผักสดและผลไม้",
    "ru": "Старый рынок открывается до восхода солнца, и торговцы приплывают на лодках один за другим.",
    "uk": "Старий ринок відчиняється до сходу сонця, і торговці припливають човнами один за одним, її не чекаючи.",
    "tr": "Eski çarşı güneş doğmadan açılır ve satıcılar kayıklarla birer birer gelirler; her kayıkta sebze vardır.",
    "lt": "Senasis turgus atidaromas prieš saulėtekį, o prekeiviai vienas po kito atplaukia valtimis su daržovėmis.",
    "pl": "Stary targ otwiera się przed wschodem słońca, a kupcy przypływają łodziami jeden po drugim, z warzywami.",
    "fr": "Le vieux marché ouvre avant le lever du soleil, et les marchands arrivent chargés de légumes à goûter.",
    "pt": "O mercado abre antes do nascer do sol, e os vendedores chegam em canoas com orações e canções das regiões.",
    "zh": "老市场在日出之前就开门了，商人们划着船一个接一个地来，每条船上都有新鲜的蔬菜和水果。",
    "ja": "古い市場は日の出の前に開き、商人たちは小舟で次々とやって来ます。どの舟にも新鮮な野菜があります。",
    "ko": "오래된 시장은 해가 뜨기 전에 문을 열고 상인들은 배를 타고 하나씩 옵니다. 배마다 신선한 채소가 있습니다.",
}
ENCODINGS = [
    ("ar", "windows-1256"), ("ar", "iso-8859-6"), ("he", "windows-1255"), ("he", "iso-8859-8"), ("el", "windows-1253"),
    ("el", "iso-8859-7"), ("th", "tis-620"), ("th", "windows-874"), ("ru", "windows-1251"), ("ru", "koi8-r"),
    ("ru", "ibm866"), ("ru", "iso-8859-5"), ("uk", "koi8-u"), ("uk", "windows-1251"), ("tr", "windows-1254"),
    ("lt", "windows-1257"), ("pl", "windows-1250"), ("pl", "iso-8859-2"), ("fr", "windows-1252"),
    ("pt", "windows-1252"), ("zh", "gbk"), ("zh", "gb18030"), ("ja", "shift_jis"), ("ja", "euc-jp"), ("ko", "euc-kr"),
]  # fmt: skip


def coded(language: str, label: str) -> tuple[bytes, str]:
    name = {"windows-874": "cp874", "ibm866": "cp866"}.get(label, label)
    data = TEXTS[language].encode(name, "ignore")
    return data, data.decode(name)


@pytest.mark.parametrize(("language", "label"), ENCODINGS)
@pytest.mark.parametrize("claim", ["its own", None, "utf-8", "gb2312"])
def test_a_script_is_read_as_itself(language: str, label: str, claim: str | None) -> None:
    data, text = coded(language, label)
    assert decode(b"<p>" + data + b"</p>", label if claim == "its own" else claim) == f"<p>{text}</p>"


@pytest.mark.parametrize(("language", "label"), ENCODINGS)
def test_a_page_that_says_latin_1_of_another_script(language: str, label: str) -> None:
    data, text = coded(language, label)
    if language not in ("pl", "lt", "tr"):  # Latin letters of one table are Latin letters in another
        assert text[:40] in decode(b"<p>" + data + b"</p>", "iso-8859-1")


def test_an_honest_claim_of_an_encoding_of_latin_letters_stands() -> None:
    for language, label in (("pl", "iso-8859-2"), ("lt", "windows-1257"), ("tr", "iso-8859-9"), ("fr", "iso-8859-1")):
        data, text = coded(language, label)
        assert decode(data, label) == text


def test_vietnamese_in_its_windows_encoding() -> None:
    text = "Chợ nổi mở cửa trước khi mặt trời mọc, người bán hàng chèo thuyền đến."
    pieces = []
    for char in text:
        plain = unicodedata.normalize("NFD", char)
        tone = "".join(mark for mark in plain if mark in "\u0300\u0301\u0303\u0309\u0323")
        pieces.append(unicodedata.normalize("NFC", plain.translate(dict.fromkeys(map(ord, tone)))) + tone)
    page = b'<meta charset="windows-1258"><p>' + "".join(pieces).encode("cp1258") + b"</p>"
    assert extract_text(page) == text
