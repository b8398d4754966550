"""Full stops of all scripts, in the rules of quality and in the reading of pages; verse."""

from __future__ import annotations

import pytest

from qwenkit.data.extract.text import extract_text
from qwenkit.data.filters.c4 import sentences_kept
from qwenkit.data.filters.default import DEFAULT_RULES, unfinished_lines
from qwenkit.data.filters.fineweb import closed_lines
from qwenkit.data.filters.rules import TextView, first_broken, measures

PROSE = {
    "hi": "गाँव के बाहर पुराना कुआँ था और लोग सुबह पानी भरने आते थे।",
    "bn": "গ্রামের বাইরে একটি পুরানো কূপ ছিল এবং মানুষ সকালে জল নিতে আসত।",
    "ur": "گاؤں کے باہر ایک پرانا کنواں تھا اور لوگ صبح پانی بھرنے آتے تھے۔",
    "ar": "هل كانت البئر القديمة خارج القرية يأتي إليها الناس كل صباح؟",
    "am": "በመንደሩ ውጭ አሮጌ ጉድጓድ ነበረ ሰዎችም በማለዳ ውሃ ለመቅዳት ይመጡ ነበር።",
    "hy": "Գյուղից դուրս մի հին ջրհոր կար, և մարդիկ առավոտյան գալիս էին ջրի։",
    "my": "ရွာအပြင်ဘက်တွင် ရေတွင်းဟောင်းတစ်တွင်းရှိပြီး လူများ မနက်တိုင်း ရေခပ်လာကြသည်။",
    "km": "នៅខាងក្រៅភូមិមានអណ្តូងចាស់មួយ ហើយមនុស្សមកដងទឹករាល់ព្រឹក។",
    "bo": "གྲོང་གསེབ་ཀྱི་ཕྱི་ལོགས་སུ་ཁྲོན་པ་རྙིང་པ་ཞིག་ཡོད།",
    "el": "Πού ήταν το παλιό πηγάδι που έρχονταν οι άνθρωποι το πρωί;",
    "zh": "村子外面有一口老井，人们每天早上都来打水。",
    "ja": "村の外に古い井戸があり、人々は毎朝水を汲みに来た。",
    "si": "ගමෙන් පිටත පැරණි ළිඳක් තිබුණු අතර මිනිස්සු උදේට වතුර ගන්න ආවා෴",
    "mn": "ᠲᠣᠰᠬᠣᠨ ᠤ ᠭᠠᠳᠠᠨᠠ ᠬᠠᠭᠤᠴᠢᠨ ᠬᠤᠳᠳᠤᠭ ᠪᠠᠢᠵᠠᠢ᠃",
}


@pytest.mark.parametrize("language", PROSE)
def test_a_line_that_ends_as_its_script_ends_sentences_is_finished(language: str) -> None:
    view = TextView(f"{PROSE[language]}\n\n{PROSE[language]}", language)
    assert unfinished_lines(view) == 0
    assert language == "el" or closed_lines(view) == 1  # C4 has no semicolon
    open_view = TextView(view.text.replace(PROSE[language][-1], ""), language)
    assert unfinished_lines(open_view) > 0.9


def test_thai_ends_its_sentences_by_spaces() -> None:
    assert unfinished_lines(TextView("ตลาดน้ำเปิดก่อนพระอาทิตย์ขึ้น\nพ่อค้าแม่ค้าพายเรือมาทีละลำ", "th")) == 0


def test_c4_counts_sentences_of_other_scripts() -> None:
    assert sentences_kept(TextView(f"{PROSE['hi']} {PROSE['hi']}\n{PROSE['hi']}", "hi")) == 3


@pytest.mark.parametrize("language", ["hi", "ur", "am", "hy", "ar"])
def test_a_page_of_another_script_keeps_its_text_without_its_menu(language: str) -> None:
    text = " ".join([PROSE[language]] * 3)
    menu = "<ul>" + "<li><a href='/x'>abc def</a>" * 9 + "</ul>"
    assert extract_text(f"<html><body><div>{menu}</div><div><p>{text}</p><p>{text}</p></div></body></html>") in (
        f"{text}\n\n{text}", text
    )  # fmt: skip


POEM = """The gate is old
and leans to the west
and nobody closes it
when they go

The road is new
and runs to the east
and nobody takes it
in the snow

The well is deep
and cold as the night
and nobody draws from it
but the crow"""
GERMAN = """Das Tor ist alt
und lehnt nach West
und niemand macht es zu
wenn er geht

Der Weg ist neu
und führt nach Ost
und niemand nimmt ihn
wenn es schneit"""
MENU = """Home
About Us
Our Services
Contact Us

Privacy Policy
Terms of Use
Site Map
Careers

News
Events
Media Kit"""
LINKS = "\n".join(f"Mayor opens bridge number {n} in the old town" for n in range(12))


@pytest.mark.parametrize("text", [POEM, GERMAN, f"The Gate\n\n{POEM}"])
def test_verse_is_kept(text: str) -> None:
    view = TextView(text, "de" if text is GERMAN else "en")
    rule = first_broken(measures(view, DEFAULT_RULES), DEFAULT_RULES)
    assert rule is None or rule.name == "stop_words_en"


@pytest.mark.parametrize("text", [MENU, LINKS, f"- {POEM}".replace("\n", "\n- ")])
def test_menus_and_lists_are_no_verse(text: str) -> None:
    assert unfinished_lines(TextView(text, "en")) > 0.88


def test_russian_read_in_a_wrong_table_is_broken() -> None:
    text = "Старый рынок открывается до восхода солнца. " * 5
    spoilt = text.encode().decode("cp1251", "replace")
    measured = {
        name: measures(TextView(each, "ru"), DEFAULT_RULES)["strange_characters"]
        for name, each in (("a", text), ("b", spoilt))
    }
    assert measured["a"] == 0 and measured["b"] > 0.1
