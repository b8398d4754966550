"""Personal data masked in place: mail and IP addresses, numbers of telephones, cards and identity, and keys.

Not in the report; an option of `build_corpus` (`scrub_pii`), off by default. `scrub(text) -> (text, counts)` puts
`<email>`, `<phone>`, `<card>`, `<ip>`, `<identity>`, `<key>` where they stood. Numbers of cards and of Chinese
residents must pass their checks and an IPv4 address be in range and not private, so that ordinary long numbers and
version strings stay; keys are those with a form of their own (AWS, GitHub, OpenAI, Google, PEM). Names, street
addresses, IPv6 and identity numbers without a check are not found.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,24}(?![\w-])", re.ASCII)
_IP = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)", re.ASCII)
_CARD = re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?!\d|[.-]\d)", re.ASCII)
_PHONE = re.compile(
    r"(?<![\w.+-])(?:"
    r"\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"  # +44 20 7946 0958
    r"|\(\d{3}\)[ .-]?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4}"  # (212) 555-0123
    r"|1[3-9]\d[ -]?\d{4}[ -]?\d{4}|0\d{2,3}-\d{7,8}"  # Chinese mobile and land line
    r")(?!\w|[.-]\d)",
    re.ASCII,  # a Han character beside a number is no part of it
)


_IDENTITY = re.compile(r"(?<![\w.-])\d{17}[\dXx](?!\w|[.-]\d)", re.ASCII)
_KEY = re.compile(
    r"(?<![\w-])(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_\w{22,255}|sk-[\w-]{20,255}|AIza[\w-]{35})"
    r"(?![\w-])|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[A-Za-z0-9+/=\s]{0,10000}-----END [A-Z ]{0,30}PRIVATE KEY-----",
    re.ASCII,
)


def resident(digits: str) -> bool:
    """Whether a number passes the check of Chinese resident identity (ISO 7064, MOD 11-2)."""
    values = [10 if digit in "Xx" else int(digit) for digit in digits]
    return sum(value * pow(2, 17 - place, 11) for place, value in enumerate(values)) % 11 == 1


def luhn(digits: str) -> bool:
    """Whether a number passes the check of payment cards."""
    numbers = [int(digit) for digit in reversed(digits) if digit.isdigit()]
    return sum(numbers[0::2]) % 10 == -sum(sum(divmod(2 * number, 10)) for number in numbers[1::2]) % 10


def scrub(text: str) -> tuple[str, Counter[str]]:
    """The text with personal data masked, and how much of each kind there was."""
    counts: Counter[str] = Counter()
    checks = (
        ("key", _KEY, lambda found: True),
        ("email", _EMAIL, lambda found: True),
        ("ip", _IP, _public_address),
        ("identity", _IDENTITY, resident),
        ("card", _CARD, luhn),
        ("phone", _PHONE, lambda found: True),
    )
    for name, pattern, is_real in checks:
        text, number = _mask(text, name, pattern, is_real)
        if number:
            counts[name] = number
    return text, counts


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
        return ipaddress.ip_address(found).is_global
    except ValueError:
        return False
