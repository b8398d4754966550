"""The form in which the page asks for a key, where the server has keys, and the cookie that keeps it for the session.

The cookie ends with the browser's session, is sent to the page's own paths alone, to no request that another site
causes (`SameSite=Strict`), and is not readable by scripts (`HttpOnly`). No script is needed to send the form.
"""

from __future__ import annotations

import base64
import binascii
import html
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from qwenkit.serving.page.texts import Language, language_of, text

COOKIE = "qwenkit_key"
_FORM_BYTES = 4096


def key_of(cookies: str | None) -> str | None:
    """Return the key that the header Cookie carries, or None."""
    try:
        morsel = SimpleCookie(cookies or "").get(COOKIE)
        return None if morsel is None else base64.urlsafe_b64decode(morsel.value).decode() or None
    except (CookieError, binascii.Error, ValueError):
        return None


def cookie(key: str, path: str, secure: bool) -> str:
    """Return the header Set-Cookie for a key; an empty key takes the cookie back."""
    value = base64.urlsafe_b64encode(key.encode()).decode()
    end = "" if key else "; Max-Age=0"
    return f"{COOKIE}={value}; Path={path}/; HttpOnly; SameSite=Strict{'; Secure' if secure else ''}{end}"


def key_in_form(body: bytes) -> str:
    """Return the key of a sent form, "" where there is none."""
    if len(body) > _FORM_BYTES:
        return ""
    fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=4)
    return fields.get("key", [""])[0].strip()


def form_page(accept_language: str | None, wrong: bool, path: str) -> str:
    """Return the page with the form, in the browser's language; `wrong` says that a key was not known."""
    language: Language = language_of(accept_language)
    problem = f'<p class="wrong" role="alert">{html.escape(text("key_wrong", language))}</p>' if wrong else ""
    title = html.escape(text("key_title", language))
    return f"""<!doctype html>
<html lang="{"zh-CN" if language == "zh" else "en"}">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>qwenkit</title><link rel="stylesheet" href="{path}/key.css"></head>
<body><form method="post" action="{path}/key">
<h1>qwenkit</h1>{problem}
<label>{title}<input type="password" name="key" autocomplete="off" autofocus required maxlength="512"></label>
<button>{html.escape(text("key_send", language))}</button>
<p>{html.escape(text("key_note", language))}</p>
</form></body></html>
"""
