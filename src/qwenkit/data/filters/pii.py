"""Personal data is masked in place: mail and network addresses, telephone, card, account and identity numbers, keys.

Not in the report; an option of `build_corpus` (`scrub_pii`), off by default. `scrub(text) -> (text, counts)` puts
`<email>`, `<phone>`, `<card>`, `<account>`, `<ip>`, `<identity>`, `<key>` where they stood, in time linear in the text.

Numbers with a checksum must pass it, so that ordinary long numbers stay: cards the form of an issuer and Luhn's sum,
accounts (IBAN) their country's length and MOD 97, Chinese residents a date of birth and MOD 11-2, US social security
the blocks that are issued. Addresses (IPv4, IPv6) must be public, and those of IPv4 have a part above 99: few have
none, and nearly all numbers of versions and sections. Keys are those with a form of their own (AWS, GitHub, GitLab,
OpenAI, Google, Hugging Face, Slack, Stripe, npm, signed web tokens, private keys in PEM). Telephone numbers have no
checksum (`telephones`). Code that looks like a mail address is not masked: products of matrices, versions of packages,
addresses of repositories. Names and street addresses are not found.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable

from qwenkit.data.filters import telephones

Check = Callable[[re.Match[str]], bool]

_LETTERS = "A-Za-z0-9_\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0300-\u036f\u0370-\u052f\u1e00-\u1eff"  # no Han
_EMAIL = re.compile(
    rf"(?<![{_LETTERS}.+-])(?<!://)(?:[A-Za-z]['\u2019])?[{_LETTERS}.+%-]{{1,64}}@"
    rf"(?P<host>[{_LETTERS}-]{{1,63}}(?:\.[{_LETTERS}-]{{1,63}}){{0,8}})\.(?P<top>[A-Za-z]{{2,24}}|xn--[a-z0-9-]{{2,59}}|"
    rf"\u0440\u0444|\u0443\u043a\u0440|\u0431\u0435\u043b)(?![{_LETTERS}-]|:[\w./~])",
)  # before a colon and a path, and behind `://`, it is where a repository lies
_FILES = frozenset("png jpg jpeg gif webp svg ico avif css js mjs json map".split())  # of `logo@2x.png`, `vue@3.2.js`
_TOP = frozenset(
    (
        "com org net edu gov mil int info biz name pro aero coop museum mobi asia cat jobs tel travel post arpa "
        "example test invalid xyz online site shop app dev club top store tech cloud email blog news live life world "
        "media group company agency design studio systems solutions network digital academy school university health "
        "care law legal finance bank capital social software website space work works today global international "
        "berlin london paris wien koeln hamburg "
    ).split()
)  # and every one of two letters is a country's
_CALLED = ("com", "org", "net", "edu", "gov")  # no attribute of an object is called so
_VERSION = re.compile(r"v?\d+(?:\.\d+)+(?:\b|[-_.])")
_IP = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)", re.ASCII)
_IP6 = re.compile(r"(?<![\w:.])[23][\da-fA-F]{3}(?::[\da-fA-F]{0,4}){2,7}(?![\w:])", re.ASCII)  # 2000::/3: all in use
_OF_VERSIONS = re.compile(r"\b(?:version|release|ver|build|kernel|driver|firmware|section|版本)\W{0,3}$", re.I)
_CARD = re.compile(r"(?<![\w.-])[2-6](?:[ -]?\d){13,18}(?!\w|[.-]\d)", re.ASCII)
_CARD_FORMS = re.compile(
    r"4(?:\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3[068]\d{12}|(?:35|6\d)\d{14,17}", re.ASCII
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
    """Return whether 18 digits hold a date of birth and pass the checksum of Chinese resident identity numbers (ISO
    7064, MOD 11-2)."""
    values = [10 if digit in "Xx" else int(digit) for digit in number]
    passes = sum(value * pow(2, 17 - place, 11) for place, value in enumerate(values)) % 11 == 1
    return passes and bool(_BIRTH.match(number))


def luhn(digits: str) -> bool:
    """Return whether a number passes the checksum of payment cards (Luhn)."""
    numbers = [int(digit) for digit in reversed(digits) if digit.isdigit()]
    return sum(numbers[0::2]) % 10 == -sum(sum(divmod(2 * number, 10)) for number in numbers[1::2]) % 10


def card(number: str) -> bool:
    """Return whether a number has the first digits and the length of a card issuer, and passes the checksum."""
    digits = re.sub(r"\D", "", number)
    return bool(_CARD_FORMS.fullmatch(digits)) and luhn(digits)


def account(number: str) -> bool:
    """Return whether an international bank account number (IBAN) passes its checksum (ISO 7064, MOD 97-10)."""
    plain = number.replace(" ", "")
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def scrub(text: str) -> tuple[str, Counter[str]]:
    """Return the text with personal data masked, and how many items of each kind there were."""
    counts: Counter[str] = Counter()
    for has_sign, kinds in _KINDS:
        for name, pattern, is_real in kinds if has_sign(text) else ():
            text, number = _mask(text, name, pattern, is_real)
            counts[name] += number
    return text, +counts


def _mask(text: str, name: str, pattern: re.Pattern[str], is_real: Check) -> tuple[str, int]:
    number = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal number
        if not is_real(match):
            return match.group()
        number += 1
        return f"<{name}>"

    return pattern.sub(replace, text), number


def _public_address(match: re.Match[str]) -> bool:
    try:
        address = ipaddress.ip_address(match.group())
    except ValueError:
        return False
    section = address.version == 4 and max(address.packed) < 100
    before = match.string[max(0, match.start() - 16) : match.start()]
    return address.is_global and not address.is_multicast and not section and not _OF_VERSIONS.search(before)


def _key(match: re.Match[str]) -> bool:
    """Return whether a private key is there; prose may only name the lines around it."""
    return not match.group().startswith("-----") or bool(re.search(r"[A-Za-z0-9+/=]{16}", match.group()))


def _always(match: re.Match[str]) -> bool:
    return True


def _of(passes: Callable[[str], bool]) -> Check:
    """Return a check that ignores the context."""
    return lambda match: passes(match.group())


def _is_address(match: re.Match[str]) -> bool:
    """Return whether something in the form of a mail address is not the name of a file, the version of a package or a
    product of two matrices."""
    top, host = match["top"], match["host"]
    if top.lower() in _FILES or _VERSION.match(host) or not (top.islower() or top.isupper()):
        return False
    if match.string[match.end() : match.end() + 1] in ("(", "[") and top.lower() not in _CALLED:
        return False
    return len(top) == 2 or top.lower() in _TOP or not top.isascii() or top.startswith("xn--")


def _sign(pattern: str) -> Callable[[str], bool]:
    """Return a quick test for what every item of a kind contains: most texts have none, and this is many times
    faster."""
    compiled = re.compile(pattern, re.ASCII)
    return lambda text: compiled.search(text) is not None


def _sign_of_key(text: str) -> bool:
    return any(mark in text for mark in _KEY_MARKS)


_KEY_MARKS = (
    "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "sk-", "AIza", "GOCSPX-", "hf_",
    "npm_", "xox", "k_live_", "k_test_", "eyJ", "PRIVATE KEY",
)  # fmt: skip
Kind = tuple[str, re.Pattern[str], Check]
_KINDS: tuple[tuple[Callable[[str], bool], tuple[Kind, ...]], ...] = (
    (_sign_of_key, (("key", _KEY, _key),)),
    (_sign("@"), (("email", _EMAIL, _is_address),)),
    (_sign(r"[23][\da-fA-F]{3}:"), (("ip", _IP6, _public_address),)),
    (_sign(r"[A-Z]{2}\d\d"), (("account", _ACCOUNT, _of(account)),)),
    (
        _sign(r"(?:\d[ .()/-]{0,3}){6}"),
        (
            ("ip", _IP, _public_address),
            ("identity", _RESIDENT, _of(resident)),
            ("identity", _SOCIAL_SECURITY, _always),
            ("card", _CARD, _of(card)),
            ("phone", telephones.PATTERN, telephones.is_telephone),
        ),
    ),
)
