"""Telephone numbers in a text. They have no checksum: the form must be one that can be called, and the text before it
must not name another kind of number.

    for match in PATTERN.finditer(text): is_telephone(match)

International numbers (+44 20 7946 0958) need no more than their form. National ones have that of a country: North
America's codes of area and exchange never begin with 0 or 1; where a number begins with the 0 that is dialled at home
(030 1234567, 06 12 34 56 78, 03-1234-5678) nine to eleven digits in groups are one. A bare Chinese mobile number is an
ordinary number too, so it needs a word for it, or Chinese beside it that is not a word of counting.
"""

from __future__ import annotations

import re
from itertools import pairwise

PATTERN = re.compile(
    r"(?<![\w.+-])(?:"
    r"(?P<abroad>\(?(?:\+|00)86\)?[ -]?(?:1[3-9]\d[ -]?\d{4}[ -]?\d{4}|\(?0?\d{2,3}\)?[ -]?\d{3,4}[ -]?\d{4})"
    r"|\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,5}(?:[ .-]?\d{2,6}){1,4})"  # +86 138 1234 5678, +44 20 7946 0958
    r"|(?P<america>\(\d{3}\)[ .-]?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4})"  # (212) 555-0123
    r"|(?P<mobile>1[3-9]\d[ -]?\d{4}[ -]?\d{4})"  # of China: 138 1234 5678
    r"|(?P<city>0\d{2,3}-\d{7,8})"  # of China: 010-62345678
    r"|(?P<home>\(?0[1-9]\d{0,3}\)?(?: ?[/ .-] ?\d{2,8}){1,4})"  # 030 1234567, 06 12 34 56 78, (02) 9876 5432
    r"|(?P<other>8[ -]?\(\d{3,4}\) ?\d{2,3}-\d\d-\d\d|8-800-\d{3}-\d\d-\d\d"  # Russia: 8 (495) 123-45-67
    r"|\(\d\d\) ?9?\d{4}-\d{4})"  # Brazil: (11) 91234-5678
    r"|(?P<word>\d{2,5}(?:[ -]\d{2,6}){1,4}|\d{9,11})"  # anything where a word says so
    r")(?!\w|[.-]\d|\*)",  # no factor of a formula
    re.ASCII,  # a Han character beside a number is not part of it
)
_BEFORE = 24  # characters that are looked at for a word
_SAYS_SO = re.compile(
    r"\b(?:tel|phone|telephone|mobile|mob|cell|fax|sms|whatsapp|hotline|telefon|téléphone|tél|"
    r"portable|handy|móvil|teléfono|telefone|celular|cellulare|telefono|тел|телефон)\b\W{0,4}"
    r"(?:number|no|nr|is|at|on|to|or)?\W{0,3}(?:is|at|on)?\W{0,3}$"
    r"|\b(?:call|dial|text|ring|contact)\s+(?:(?:me|us|him|her|them)\W{0,2}\s?(?:at|on)?|at|on)\W{0,3}$"
    r"|(?:手机|手機|电话|電話|联系|聯繫|微信|号码|號碼|拨打|致电|热线|熱線|传真|전화|휴대폰|携帯)\w{0,4}\W{0,4}$",
    re.I,
)
_OF_OTHERS = re.compile(
    r"(?:order|invoice|isbn|issn|doi|part|serial|ticket|case|ref|reference|sku|item|model|tracking|account|patent|"
    r"population|total|id|release|version|build|bestellung|rechnung|commande|pedido|заказ|issue|page|pages|pp|no)\b"
    r"\W{0,3}(?:number|no|nr|id|code)?\W{0,4}$"
    r"|[№#]\s?$|(?:订单|訂單|编号|編號|单号|發票|发票|人口|总计|总数|金额|数量|合计|产量|面积|约|共|第|为|是)\w{0,2}\W{0,3}$",
    re.I,
)
_DATE = re.compile(r"\d\d([./-])\d\d\1(?:19|20)\d\d|\d\d([./-])\d\d\2\d\d(?:\D|$)")
_PAIRS = re.compile(r"0[1-9](?:[ .-]\d\d){4}")  # as the French write theirs
_HAN = re.compile("[\u4e00-\u9fff]")
_SIGNED = re.compile(r"\+(?:0.*|\d*\.?\d*)")
_INTERNATIONAL = re.compile(r"\+[1-9]\d{7,14}")


def is_telephone(match: re.Match[str]) -> bool:
    """Return whether something in the form of a number is a telephone number."""
    number, form = match.group(), match.lastgroup or ""
    before = match.string[max(0, match.start() - _BEFORE) : match.start()]
    digits = re.sub(r"\D", "", number)
    if form == "abroad":  # no signed number of a table: with its country it has eight digits, and more than one dot
        signed = _SIGNED.fullmatch(number) and not _INTERNATIONAL.fullmatch(number)
        return not signed and 8 <= len(digits) <= 17
    if _OF_OTHERS.search(before):
        return False
    return _national(form, number, digits, before, match.string[match.end() : match.end() + 2])


def _national(form: str, number: str, digits: str, before: str, after: str) -> bool:
    """Return whether a number is a telephone number in its country."""
    is_announced = bool(_SAYS_SO.search(before))
    if form == "word":
        return is_announced and 9 <= len(digits) <= (15 if digits.startswith("00") else 12) and not _DATE.search(number)
    if form == "america":
        return digits[0] > "1" and digits[3] > "1" and digits[4:6] != "11"
    if form == "mobile":
        beside = _HAN.search(before.rstrip(" :：")[-1:] + after.lstrip()[:1])
        return is_announced or number != digits or bool(beside)
    if form == "home":
        is_date = _DATE.match(number) and not _PAIRS.fullmatch(number)
        return 9 <= len(digits) <= 11 and not is_date and not _counts(number)
    return True


def _counts(number: str) -> bool:
    """Return whether groups are steps of one count: 01 02 03 04 05."""
    groups = [int(group) for group in re.findall(r"\d+", number)]
    return len(groups) > 2 and all(after - before == 1 for before, after in pairwise(groups))
