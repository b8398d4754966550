"""Personal data masked in place: mail addresses, telephone and payment-card numbers, IP addresses.

Not in the report; an option of `build_corpus` (`scrub_pii`), off by default. `scrub(text) -> (text, counts)` puts
`<email>`, `<phone>`, `<card>`, `<ip>` where they stood. A card number must pass Luhn's check and an IPv4 address be in
range and not private, so that ordinary long numbers and version strings stay. Names and street addresses are not found.
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


def luhn(digits: str) -> bool:
    """Whether a number passes the check of payment cards."""
    numbers = [int(digit) for digit in reversed(digits) if digit.isdigit()]
    return sum(numbers[0::2]) % 10 == -sum(sum(divmod(2 * number, 10)) for number in numbers[1::2]) % 10


def scrub(text: str) -> tuple[str, Counter[str]]:
    """The text with personal data masked, and how much of each kind there was."""
    counts: Counter[str] = Counter()
    checks = (
        ("email", _EMAIL, lambda found: True),
        ("ip", _IP, _public_address),
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
