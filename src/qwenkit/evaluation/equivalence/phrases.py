"""Answers that are words: yes and no, "no solution", all real numbers, clock times, dates, choices of letters.

`canonical(text)` gives one name to the ways of saying a fixed phrase in English and Chinese; `clock`, `date` and
`choices` read the other kinds. Each returns None for anything else.
"""

from __future__ import annotations

import re

from qwenkit.evaluation.numerals import spoken_number

_PHRASES = {
    "yes": "yes|true|correct|right|是|是的|对|对的|正确|真|√|✓|✔",
    "no": "no|false|incorrect|wrong|否|不是|不|不对|错|错的|错误|不正确|假|✗|✘|×",
    "none": "no solution|no solutions|no real solution|no real solutions|there is no solution|there are no solutions|"
    "none|empty set|the empty set|empty|no answer|无解|方程无解|无实数解|没有解|空集|∅|⦃⦄|{}|no solution : ∅",
    "missing": "does not exist|dne|doesn't exist|the limit does not exist|不存在|极限不存在",
    "undefined": "undefined|not defined|无定义|未定义|没有意义|无意义",
    "reals": "ℝ|all real numbers|all reals|all real|the real numbers|real numbers|(-∞,∞)|(-∞,+∞)|全体实数|实数集|"
    "一切实数|任意实数|所有实数|⦃allrealnumbers⦄:ℝ",
    "infinite": "∞|+∞|infinity|positive infinity|正无穷|无穷大|正无穷大|无穷",
    "minus infinite": "-∞|negative infinity|minus infinity|负无穷|负无穷大",
    "many": "infinitely many|infinitely many solutions|infinite number of solutions|infinite solutions|无数|无数个|"
    "无穷多|无穷多个|无数多个|无穷多解",
    "increasing": "increasing|monotonically increasing|递增|单调递增|增函数",
    "decreasing": "decreasing|monotonically decreasing|递减|单调递减|减函数",
    "converges": "converges|convergent|收敛",
    "diverges": "diverges|divergent|发散",
    "even": "even|even function|偶数|偶函数",
    "odd": "odd|odd function|奇数|奇函数",
    "same": "equal|the same|相等|一样|一样多|相同|同样多",
    "Monday": "monday|mon|星期一|周一|礼拜一",
    "Tuesday": "tuesday|tue|tues|星期二|周二|礼拜二",
    "Wednesday": "wednesday|wed|星期三|周三|礼拜三",
    "Thursday": "thursday|thu|thurs|星期四|周四|礼拜四",
    "Friday": "friday|fri|星期五|周五|礼拜五",
    "Saturday": "saturday|sat|星期六|周六|礼拜六",
    "Sunday": "sunday|sun|星期日|星期天|周日|周天|礼拜天",
    "January": "january|jan|一月|1月|元月",
    "February": "february|feb|二月|2月",
    "March": "march|mar|三月|3月",
    "April": "april|apr|四月|4月",
    "May": "may|五月|5月",
    "June": "june|jun|六月|6月",
    "July": "july|jul|七月|7月",
    "August": "august|aug|八月|8月",
    "September": "september|sep|sept|九月|9月",
    "October": "october|oct|十月|10月",
    "November": "november|nov|十一月|11月",
    "December": "december|dec|十二月|12月",
}
_CANONICAL = {spelling.replace(" ", ""): name for name, row in _PHRASES.items() for spelling in row.split("|")}
_MONTHS = {name[:3].lower(): number for number, name in enumerate(list(_PHRASES)[-12:], 1)}

_PART = r"(?P<part>凌晨|清晨|早上|早晨|上午|中午|下午|傍晚|晚上|夜里|夜晚|晚)? ?"
_MARK = r" ?(?P<mark>[ap] ?\.? ?m\.?)?"
_CLOCKS = (
    re.compile(_PART + r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}))?" + _MARK),
    re.compile(r"(?P<part>)(?P<hour>[0-9]{1,2}) ?(?P<mark>[ap] ?\.? ?m\.?|o'clock)"),
    re.compile(_PART + r"(?P<hour>[0-9]{1,2}|[一二两三四五六七八九十]{1,3})(?:点钟|点|时)整?"
               r"(?:(?P<minute>[0-9]{1,2}|[零一二三四五六七八九十]{1,3})分?|(?P<word>半|一刻|三刻))?(?P<mark>)"),
)  # fmt: skip
_WORDS = {"半": 30, "一刻": 15, "三刻": 45}
_MONTH_NAME = r"(?P<name>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DAY = r"(?P<day>[0-9]{1,2})(?:st|nd|rd|th)?"
_DATES = (
    re.compile(r"(?P<year>[0-9]{4})[-/.](?P<month>[0-9]{1,2})[-/.](?P<day>[0-9]{1,2})"),
    re.compile(r"(?:(?P<year>[0-9]{4}) ?年 ?)?(?P<month>[0-9]{1,2}) ?月 ?(?P<day>[0-9]{1,2}) ?[日号]"),
    re.compile(rf"{_MONTH_NAME} {_DAY}(?:,? ?(?P<year>[0-9]{{4}}))?"),
    re.compile(rf"{_DAY} (?:of )?{_MONTH_NAME}(?:,? ?(?P<year>[0-9]{{4}}))?"),
)
_CHOICES = re.compile(r"\(?[A-J]\)?(?:(?: ?(?:,|;|和|与|and|&) ?| )?\(?[A-J]\)?){0,7}")
_CHOICE_WORD = re.compile(r"^(?:option|choice|选项|选) ?(?=\(?[A-Ja-j]\)?$)", re.IGNORECASE)


def canonical(text: str) -> str | None:
    """Return the one name of a fixed phrase."""
    return _CANONICAL.get(text.lower().replace(" ", "")) if len(text) < 40 else None


Clock = tuple[int, bool]  # seconds since midnight, and whether morning or afternoon is known


def clock(text: str) -> Clock | None:
    """Return the time of day: `9 a.m.`, `21:30`, `下午3点半`; without a mark it may be either half of the day."""
    lowered = text.lower()
    if lowered in ("noon", "midnight", "正午"):
        return (0 if lowered == "midnight" else 43200), True
    match = next((match for pattern in _CLOCKS if (match := pattern.fullmatch(lowered))), None)
    if not match:
        return None
    groups = match.groupdict()
    hour, minute = _spoken(groups["hour"]), _spoken(groups.get("minute") or "0")
    minute = _WORDS.get(groups.get("word") or "", minute)
    if hour is None or minute is None or hour > 24 or minute > 59:
        return None
    mark, part = (groups["mark"] or "")[:1].strip("o"), groups["part"] or ""
    late = mark == "p" or part in ("下午", "傍晚", "晚上", "夜里", "夜晚", "晚") or (part == "中午" and hour < 3)
    if hour < 12 and late:
        hour += 12
    if hour == 12 and (mark == "a" or part == "凌晨"):
        hour = 0
    return hour * 3600 + minute * 60 + int(groups.get("second") or 0), bool(mark or part or hour > 12)


def _spoken(text: str) -> int | None:
    if text.isdigit():
        return int(text)
    value = spoken_number(text)
    return int(value[0]) if value and value[1] == len(text) else None


def same_clock(left: Clock, right: Clock) -> bool:
    """Return whether two times are one; where one side does not say morning or afternoon, it may be either."""
    if left[0] == right[0]:
        return True
    return left[1] != right[1] and left[0] % 43200 == right[0] % 43200


def date(text: str) -> tuple[int, int, int] | None:
    """Return (year, month, day), year 0 where none is named; `1/2/2023` has two readings and is none."""
    lowered = text.lower()
    for pattern in _DATES:
        if match := pattern.fullmatch(lowered):
            groups = match.groupdict()
            month = _MONTHS[groups["name"]] if groups.get("name") else int(groups["month"])
            day = int(groups["day"])
            return (int(groups["year"] or 0), month, day) if 1 <= month <= 12 and 1 <= day <= 31 else None
    return None


def choices(text: str) -> str | None:
    """Return the letters of a choice, sorted: `(B)` is B; `A、C`, `CA` and `A and C` are AC."""
    text = _CHOICE_WORD.sub("", text)
    if not _CHOICES.fullmatch(text):
        return None
    letters = [letter for letter in text if letter in "ABCDEFGHIJ"]
    return "".join(sorted(letters)) if len(set(letters)) == len(letters) else None
