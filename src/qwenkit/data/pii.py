"""Personal data masked in place: mail and network addresses, numbers of telephones, cards, accounts and identity, keys.

Not in the report; an option of `build_corpus` (`scrub_pii`), off by default. `scrub(text) -> (text, counts)` puts
`<email>`, `<phone>`, `<card>`, `<account>`, `<ip>`, `<identity>`, `<key>` where they stood, in time linear in the text.

What can be checked must pass, so that ordinary long numbers stay: cards the form of an issuer and Luhn's sum, accounts
(IBAN) their country's length and MOD 97, Chinese residents a date of birth and MOD 11-2, US social security the blocks
that are given out. Addresses (IPv4, IPv6) must be public, and those of IPv4 have a part above 99: few have none, and
nearly all numbers of versions and sections. Keys are those with a form of their own (AWS, GitHub, GitLab, OpenAI,
Google, Hugging Face, Slack, Stripe, npm, signed web tokens, private keys in PEM). Telephone numbers have no check: a
bare number of eleven digits in code may look like a Chinese one. Names and street addresses are not found.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable

_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}\.[A-Za-z]{2,24}(?![\w-]|:[\w./~])", re.ASCII
)  # before a colon and a path it is where a repository lies
_FILES = frozenset("png jpg jpeg gif webp svg ico avif css js mjs json map".split())  # of `logo@2x.png`, `vue@3.2.js`
_IP = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)", re.ASCII)
_IP6 = re.compile(r"(?<![\w:.])[23][\da-fA-F]{3}(?::[\da-fA-F]{0,4}){2,7}(?![\w:])", re.ASCII)  # 2000::/3: all in use
_CARD = re.compile(r"(?<![\w.-])[2-6](?:[ -]?\d){13,18}(?!\w|[.-]\d)", re.ASCII)
_CARD_FORMS = re.compile(
    r"4(?:\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3[068]\d{12}|(?:35|6\d)\d{14,17}", re.ASCII
)
_PHONE = re.compile(
    r"(?<![\w.+-])(?:"
    r"\(?(?:\+|00)86\)?[ -]?(?:1[3-9]\d[ -]?\d{4}[ -]?\d{4}|\(?0?\d{2,3}\)?[ -]?\d{3,4}[ -]?\d{4})"  # +86 138 1234 5678
    r"|\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"  # +44 20 7946 0958
    r"|\(\d{3}\)[ .-]?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4}"  # (212) 555-0123
    r"|1[3-9]\d[ -]?\d{4}[ -]?\d{4}|0\d{2,3}-\d{7,8}"  # Chinese mobile and land line
    r")(?!\w|[.-]\d|\*)",  # no factor of a formula
    re.ASCII,  # a Han character beside a number is no part of it
)
_RESIDENT = re.compile(r"(?<![\w.-])[1-8]\d{16}[\dXx](?!\w|[.-]\d)", re.ASCII)
_BIRTH = re.compile(r"\d{6}(?:18|19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
_SOCIAL_SECURITY = re.compile(
    r"(?<![\w.-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?!\w|[.-]\d)", re.ASCII
)  # as they were given out until 2011, and since
_ACCOUNT_LENGTHS = {
    15: "NO", 16: "BE", 18: "DK FI FO GL NL", 19: "MK SI", 20: "AT BA EE KZ LT LU XK", 21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA", 23: "GI IL IQ TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "PT",
    26: "AE IS TR", 27: "FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB PL SV", 29: "BR EG PS QA UA",
    30: "JO KW MU", 31: "MT", 32: "LC",
}  # fmt: skip
_ACCOUNT = re.compile(
    "(?<![A-Za-z0-9])(?:"
    + "|".join(
        rf"(?:{'|'.join(countries.split())})\d\d(?: ?[A-Z0-9]){{{length - 4}}}"
        for length, countries in _ACCOUNT_LENGTHS.items()
    )
    + ")(?![A-Za-z0-9])",
    re.ASCII,
)
_KEY = re.compile(
    r"(?<![\w-])(?:A[KS]IA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_\w{22,255}|glpat-[\w-]{20,255}"
    r"|sk-[\w-]{20,255}|AIza[\w-]{35}|GOCSPX-[\w-]{28}|hf_[A-Za-z0-9]{30,64}|npm_[A-Za-z0-9]{36}"
    r"|xox[abeoprs]-(?=[\w-]*\d)[A-Za-z0-9-]{10,255}|[sr]k_(?:live|test)_[A-Za-z0-9]{16,255}"
    r"|eyJ[\w-]{10,2000}\.eyJ[\w-]{10,8000}\.[\w-]{20,2000})(?![\w-])"
    r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----[^-]*+(?:-(?!----)[^-]*+)*+"
    r"-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----",
    re.ASCII,
)


def resident(number: str) -> bool:
    """Whether 18 digits hold a date of birth and pass the check of Chinese residents (ISO 7064, MOD 11-2)."""
    values = [10 if digit in "Xx" else int(digit) for digit in number]
    passes = sum(value * pow(2, 17 - place, 11) for place, value in enumerate(values)) % 11 == 1
    return passes and bool(_BIRTH.match(number))


def luhn(digits: str) -> bool:
    """Whether a number passes the check of payment cards."""
    numbers = [int(digit) for digit in reversed(digits) if digit.isdigit()]
    return sum(numbers[0::2]) % 10 == -sum(sum(divmod(2 * number, 10)) for number in numbers[1::2]) % 10


def card(number: str) -> bool:
    """Whether a number has the first digits and the length of an issuer of cards, and passes their check."""
    digits = re.sub(r"\D", "", number)
    return bool(_CARD_FORMS.fullmatch(digits)) and luhn(digits)


def account(number: str) -> bool:
    """Whether an international bank account number passes its check (ISO 7064, MOD 97-10)."""
    plain = number.replace(" ", "")
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def scrub(text: str) -> tuple[str, Counter[str]]:
    """The text with personal data masked, and how much of each kind there was."""
    counts: Counter[str] = Counter()
    for has_sign, kinds in _KINDS:
        for name, pattern, is_real in kinds if has_sign(text) else ():
            text, number = _mask(text, name, pattern, is_real)
            counts[name] += number
    return text, +counts


def _mask(text: str, name: str, pattern: re.Pattern[str], is_real: Callable[[str], bool]) -> tuple[str, int]:
    number = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal number
        if not is_real(match.group()):
            return match.group()
        number += 1
        return f"<{name}>"

    return pattern.sub(replace, text), number


def _public_address(found: str) -> bool:
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return False
    section = address.version == 4 and max(address.packed) < 100
    return address.is_global and not address.is_multicast and not section


def _telephone(found: str) -> bool:
    """Whether a number is no signed one of a table: with its country it has eight digits, and more than one dot."""
    signed = re.fullmatch(r"\+(?:0.*|\d*\.?\d*)", found) and not re.fullmatch(r"\+[1-9]\d{7,14}", found)
    return not signed and sum(map(str.isdigit, found)) >= 8


def _key(found: str) -> bool:
    """Whether a private key holds one; prose may name the lines around it."""
    return not found.startswith("-----") or bool(re.search(r"[A-Za-z0-9+/=]{16}", found))


def _always(found: str) -> bool:
    return True


def _is_address(found: str) -> bool:
    """Whether what ends like an address of mail is no name of a file."""
    return found.rpartition(".")[2].lower() not in _FILES


def _sign(pattern: str) -> Callable[[str], bool]:
    """Whether a text has what every piece of a kind has: most texts have none, and this is found many times faster."""
    compiled = re.compile(pattern, re.ASCII)
    return lambda text: compiled.search(text) is not None


def _sign_of_key(text: str) -> bool:
    return any(mark in text for mark in _KEY_MARKS)


_KEY_MARKS = (
    "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "sk-", "AIza", "GOCSPX-", "hf_",
    "npm_", "xox", "k_live_", "k_test_", "eyJ", "PRIVATE KEY",
)  # fmt: skip
Kind = tuple[str, re.Pattern[str], Callable[[str], bool]]
_KINDS: tuple[tuple[Callable[[str], bool], tuple[Kind, ...]], ...] = (
    (_sign_of_key, (("key", _KEY, _key),)),
    (_sign("@"), (("email", _EMAIL, _is_address),)),
    (_sign(r"[23][\da-fA-F]{3}:"), (("ip", _IP6, _public_address),)),
    (_sign(r"[A-Z]{2}\d\d"), (("account", _ACCOUNT, account),)),
    (
        _sign(r"(?:\d[ .()-]{0,3}){6}"),
        (
            ("ip", _IP, _public_address),
            ("identity", _RESIDENT, resident),
            ("identity", _SOCIAL_SECURITY, _always),
            ("card", _CARD, card),
            ("phone", _PHONE, _telephone),
        ),
    ),
)
