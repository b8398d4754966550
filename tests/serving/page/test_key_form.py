"""The form that asks for a key, and the cookie that keeps it."""

from __future__ import annotations

import pytest

from qwenkit.serving.page.key_form import COOKIE, cookie, form_page, key_in_form, key_of

SECRET = 'sk-0123456789";,= %'


def test_the_cookie_keeps_any_key_for_the_session_and_for_the_page_alone() -> None:
    field = cookie(SECRET, "/ui", secure=False)
    value, *attributes = field.split("; ")
    assert key_of(f"a=b; {value}") == SECRET
    assert attributes == ["Path=/ui/", "HttpOnly", "SameSite=Strict"]  # no time: it ends with the session
    assert cookie(SECRET, "/ui", secure=True).endswith("; Secure")
    assert cookie("", "/ui", secure=False).endswith("; Max-Age=0")


@pytest.mark.parametrize(
    "header", [None, "", "a=b", f"{COOKIE}=%%", f"{COOKIE}=a", f'{COOKIE}="', "\0", f"{COOKIE}=/w=="]
)
def test_a_cookie_that_holds_no_key(header: str | None) -> None:
    assert key_of(header) is None


def test_the_form() -> None:
    assert key_in_form(b"key=+sk-1%2B2+&other=1") == "sk-1+2"
    assert key_in_form(b"key=" + b"x" * 5000) == key_in_form(b"") == key_in_form(b"\xff=\xff") == ""
    assert "密钥" in form_page("zh", False, "/ui") and "密钥无效" in form_page("zh", True, "/ui")
    page = form_page("en", False, "/ui")
    assert 'action="/ui/key"' in page and "<script" not in page and "not known" not in page
