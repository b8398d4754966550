"""The page in headless Chromium, as people use it. Every request to another machine is counted and refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwenkit.serving.codecs import CODECS
from qwenkit.serving.keys import Key, Keyring
from tests.serving.conftest import Desk
from tests.serving.page.browser import CHROMIUM, NOTHING_OUTSIDE, Tab, Written, no_network, written_answers
from tests.serving.test_server import Running, running

pytest.importorskip("gradio", reason="the page needs the extra `ui`")
playwright = pytest.importorskip("playwright.sync_api", reason="the page is played with playwright")
if CHROMIUM is None:
    pytest.skip("there is no chromium on this machine", allow_module_level=True)


@pytest.fixture(scope="module", name="browser")
def _browser() -> Iterator[Any]:
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", NOTHING_OUTSIDE])
        yield browser
        browser.close()


@pytest.fixture(scope="module", name="made")
def _made(tiny: Path) -> Iterator[Running]:
    """A server with two models of one form, whose answers are written here."""
    desk = Desk(tiny)
    plain_app = desk.app
    desk.app = lambda **more: plain_app("tiny", "other", **more)  # type: ignore[method-assign]
    with no_network() as tried, written_answers(), running(desk, codecs=CODECS, page=True) as made:
        yield made
    desk.close()
    assert tried == []


@pytest.fixture(name="tab")
def _tab(browser: Any, made: Running) -> Iterator[Tab]:
    Written.asked.clear()
    tab = Tab(browser, made.port, viewport={"width": 1100, "height": 700}).open()
    yield tab
    tab.close()


def test_a_conversation_with_a_model(tab: Tab, made: Running) -> None:
    """The real engine: an answer, its figures, the line that says what the model is, the log."""
    tab.page.click(".toggle-button")
    tab.page.fill("#max_tokens textarea, #max_tokens input", "4")
    tab.ask("river?")
    tab.page.locator("#figures p").filter(has_text="tokens at").wait_for()
    assert "tiny · 30.6 k parameters · float32 · a toy" in tab.page.inner_text("#line")
    assert tab.page.locator("#chat0 .message.bot, #chat0 .bot.message").count() >= 1
    row = made.desk.log_rows("request")[-1]
    assert (row["path"], row["user"], row["generated_tokens"] <= 4) == ("/v1/chat/completions", "page", True)


def test_tags_in_an_answer_are_text(tab: Tab) -> None:
    tab.ask("attack")
    tab.wait_for("bold")
    shown = tab.page.inner_text("#chat0")
    assert "<script>window.broken = 1</script>" in shown and "<img src=x onerror='window.broken = 2'>" in shown
    links = tab.page.eval_on_selector_all("#chat0 a", "all => all.map(a => a.getAttribute('href'))")
    assert not any((link or "").startswith("javascript:") for link in links)
    if tab.page.get_by_text("l", exact=True).count():
        tab.page.get_by_text("l", exact=True).first.click()
    assert tab.page.evaluate("window.broken") is None
    assert tab.page.locator("#chat0 .md img").count() == 0
    assert tab.page.locator("#chat0 .katex").count() == 1 and tab.page.locator("#chat0 strong").count() == 1


def test_code_is_copied_as_it_is(tab: Tab) -> None:
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.ask("code")
    tab.wait_for("print")
    tab.page.locator("#chat0 .code_wrap button, #chat0 button[class*=copy]").first.click()
    assert tab.page.evaluate("navigator.clipboard.readText()").strip() == "print('<b>')"


def test_thoughts_and_tools_are_steps(tab: Tab) -> None:
    tab.ask("think")
    tab.wait_for("Done.")
    thoughts = tab.page.locator("#chat0").get_by_text("Let me see.")
    assert thoughts.count() == 0 or not thoughts.first.is_visible()
    tab.page.locator("#chat0").get_by_text("Thoughts").first.click()
    tab.wait_for("Let me see.")
    tab.ask("tool")
    tab.wait_for("Calls weather")
    tab.page.wait_for_selector('#question textarea[placeholder="Write what weather returned."]')
    tab.ask("rain")
    tab.wait_for("Result of weather")
    assert Written.asked[-1].body["messages"][-1] == {"role": "tool", "tool_call_id": "call_1", "content": "rain"}


@pytest.mark.parametrize("way", ["button", "key", "closed"])
def test_an_answer_that_is_stopped(browser: Any, made: Running, way: str) -> None:
    tab = Tab(browser, made.port).open()
    tab.ask("slow")
    tab.wait_for("more more")
    asked = Written.asked[-1]
    if way == "closed":
        tab.close()
    else:
        tab.page.click("#stop") if way == "button" else tab.page.keyboard.press("Escape")
        tab.wait_for("stopped")
        tab.page.wait_for_selector("#send")
        tab.ask("and now")
        tab.wait_for("tiny has read: and now")
        assert Written.asked[-1].body["messages"][1]["content"].startswith("more ")
        tab.close()
    for _ in range(600):
        if asked.left.is_set():
            return
        made.thread.join(0.1)
    raise AssertionError("what a closed page asked for goes on")


def test_an_edited_turn_keeps_its_sibling(tab: Tab) -> None:
    tab.ask("first <b>")
    tab.wait_for("tiny has read: first <b>")
    tab.ask("second")
    tab.wait_for("tiny has read: second")
    tab.page.locator("#chat0 button[aria-label='Edit'], #chat0 button[title='Edit']").first.click()
    field = tab.page.locator("#chat0 textarea, #chat0 [contenteditable=true]").first
    field.fill("changed")
    tab.page.locator("#chat0 button[aria-label='Submit'], #chat0 button[title='Submit']").first.click()
    tab.wait_for("tiny has read: changed")
    tab.page.get_by_text("question 1: version 2 of 2").wait_for()
    assert "second" not in tab.page.inner_text("#chat0")
    tab.page.click("#before")
    tab.wait_for("tiny has read: second")
    tab.page.get_by_text("question 1: version 1 of 2").wait_for()
    tab.page.click("#regenerate")
    tab.page.get_by_text("question 2: version 2 of 2").wait_for()
    assert [message["content"] for message in Written.asked[-1].body["messages"] if message["role"] == "user"] == [
        "first <b>", "second",
    ]  # fmt: skip


def test_models_side_by_side(tab: Tab) -> None:
    tab.page.click("#models input")
    tab.page.get_by_role("option", name="other").click()
    tab.page.wait_for_selector("#chat1")
    tab.page.keyboard.press("Escape")
    tab.ask("hello")
    tab.wait_for("tiny has read: hello")
    tab.wait_for("other has read: hello", "#chat1")
    with tab.page.expect_download() as download:
        tab.page.get_by_role("link", name="JSON").click()
    chats = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert [chat["model"] for chat in chats] == ["tiny", "other"]
    assert chats[1]["messages"][1] == {"role": "assistant", "content": "other has read: hello"}


def test_files(tab: Tab) -> None:
    tab.page.set_input_files("#page-input", {"name": "a.bin", "mimeType": "text/plain", "buffer": b"\xff\xfe\0"})
    tab.page.get_by_text("a.bin: not a text file in UTF-8").wait_for()
    large = {"name": "large.txt", "mimeType": "text/plain", "buffer": b"x" * 200_001}
    tab.page.set_input_files("#page-input", large)
    tab.page.get_by_text("large.txt: 200001 characters; at most 200000").wait_for()
    text = {"name": "notes.txt", "mimeType": "text/plain", "buffer": "水 <b>".encode()}
    tab.page.set_input_files("#page-input", text)
    tab.page.locator(".chip").filter(has_text="notes.txt").wait_for()
    tab.ask("Read this.")
    tab.wait_for("file notes.txt, 5 characters")
    assert Written.asked[-1].question == "Read this.\n\nnotes.txt:\n```\n水 <b>\n```"
    tab.page.locator(".chip").wait_for(state="detached")


def test_chinese_on_a_phone(browser: Any, made: Running) -> None:
    tab = Tab(browser, made.port, locale="zh-CN", viewport={"width": 360, "height": 700}, has_touch=True).open()
    tab.page.wait_for_selector('#question textarea[placeholder^="输入消息"]')
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.ask("你好 " + "长" * 300)
    tab.wait_for("tiny has read: 你好")
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.page.locator("#send").bounding_box()["y"] < 700
    assert "玩具模型" in tab.page.inner_text("#line") and tab.page.inner_text("#send") == "发送"
    tab.page.get_by_text("EN", exact=True).click()
    tab.page.wait_for_selector('#question textarea[placeholder^="Write a message"]')
    assert tab.page.evaluate("document.documentElement.lang") == "en"
    tab.close()


def test_light_and_dark(browser: Any, made: Running) -> None:
    tab = Tab(browser, made.port, color_scheme="dark").open()
    assert tab.page.evaluate("document.body.classList.contains('dark')")
    tab.page.click("#page-dark")
    assert not tab.page.evaluate("document.body.classList.contains('dark')")
    tab.page.reload()
    tab.page.wait_for_selector("#line p")
    tab.page.wait_for_function("!document.body.classList.contains('dark')")
    tab.close()


def test_the_page_asks_for_a_key(browser: Any, desk: Desk) -> None:
    secret = "sk-0123456789abcdef"
    with running(desk, codecs=CODECS, page=True, keyring=Keyring([Key.of("alice", secret)])) as made:
        tab = Tab(browser, made.port)
        tab.page.goto(f"{tab.base}/")
        tab.page.fill("input[name=key]", "sk-wrong-wrong-wrong")
        tab.page.keyboard.press("Enter")
        tab.page.get_by_text("This key is not known.").wait_for()
        tab.errors.clear()  # the browser itself tells of the 401
        tab.page.fill("input[name=key]", secret)
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_selector("#line p")
        (kept,) = tab.context.cookies()
        assert kept["httpOnly"] and kept["sameSite"] == "Strict" and kept["expires"] == -1
        tab.ask("river?")
        tab.page.locator("#figures p").filter(has_text="tokens at").wait_for()
        assert desk.log_rows("request")[-1]["key"] == "alice"
        assert tab.errors == []
        tab.page.click(".toggle-button")
        tab.page.get_by_text("Forget the key").click()
        tab.page.wait_for_selector("input[name=key]")
        assert tab.context.cookies() == []
        tab.errors.clear()  # the browser tells of the 401 that the page it has left got
        tab.close()
