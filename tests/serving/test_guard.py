"""Addresses, names and pages: who may reach a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenkit.errors import UserError
from qwenkit.serving.guard import Gate, check_exposure, split_host
from qwenkit.serving.keys import Key, Keyring
from qwenkit.serving.refusals import Refused
from qwenkit.serving.settings import ServerSettings

KEYS = Keyring([Key.of("a", "sk-0123456789abcdef")])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "server.example.org"])
def test_a_public_address_wants_a_key(host: str) -> None:
    with pytest.raises(UserError) as caught:
        check_exposure(ServerSettings(host=host))
    assert caught.value.text() == (
        f"--host {host}: without a key everybody on the network may ask this server\n"
        "  expected: --api-key-file FILE, or QWENKIT_API_KEY in the environment\n"
        "  hint: --host 127.0.0.1 is for this machine alone; --allow-public-without-key is for everybody"
    )
    check_exposure(ServerSettings(host=host, keyring=KEYS))
    check_exposure(ServerSettings(host=host, allow_public_without_key=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_alone_needs_none(host: str) -> None:
    check_exposure(ServerSettings(host=host))
    check_exposure(ServerSettings(host="0.0.0.0", unix_socket=Path("socket")))


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "LOCALHOST.:80", "[::1]:8000", "10.0.0.3", "api.example.org:443"]
)
def test_names_of_the_server(host: str) -> None:
    Gate(ServerSettings(hosts=("api.example.org",))).check_host(host)


@pytest.mark.parametrize(
    "host",
    [None, "", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "2130706433", "a@localhost",
     "localhost/x", "localhost:80:80", "[::1", "localhost:99999", "löcalhost"],
)  # fmt: skip
def test_a_name_that_is_not_its_own(host: str | None) -> None:
    with pytest.raises(Refused) as caught:
        Gate(ServerSettings()).check_host(host)
    assert caught.value.refusal.code == "host_not_allowed" and caught.value.refusal.status == 403
    Gate(ServerSettings(hosts=("*",))).check_host(host)


def test_pages_of_its_own_and_of_those_it_was_told() -> None:
    gate = Gate(ServerSettings(origins=("https://chat.example.org/",)))
    gate.check_origin(None, "localhost:8000")
    gate.check_origin("http://localhost:8000", "localhost:8000")
    gate.check_origin("https://api.example.org", "api.example.org")  # behind a proxy that ends TLS
    gate.check_origin("https://chat.example.org", "localhost:8000")
    assert (b"access-control-allow-origin", b"https://chat.example.org") in gate.cors_headers(
        "https://chat.example.org"
    )
    assert not gate.cors_headers("https://other.example") and not gate.cors_headers(None)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "https://evil.example",
        "http://localhost:9000",
        "http://localhost",
        "file://",
        "http://localhost:8000@evil",
        "http://[",
    ],
)
def test_other_pages(origin: str) -> None:
    with pytest.raises(Refused) as caught:
        Gate(ServerSettings()).check_origin(origin, "localhost:8000")
    assert caught.value.refusal.code == "origin_not_allowed"
    gate = Gate(ServerSettings(origins=("*",)))
    gate.check_origin(origin, "localhost:8000")
    names = {name for name, _ in gate.cors_headers(origin, preflight=True)}
    assert b"access-control-allow-methods" in names and b"access-control-allow-credentials" not in names


def test_a_host_in_parts() -> None:
    assert split_host("LocalHost:8000") == ("localhost", 8000)
    assert split_host("[::1]:80") == ("::1", 80)
    assert split_host("a/b") == ("", None)


@pytest.mark.parametrize(
    "settings",
    [{"hosts": (name,)} for name in ("", "https://a.example", "a.example:80", "a.example/v1", "a b", "*.example")]
    + [{"origins": (name,)} for name in ("", "a.example", "https://", "https://a.example/v1", "https://[", "//a")],
)  # fmt: skip
def test_names_that_no_request_has(settings: dict[str, tuple[str, ...]]) -> None:
    """They would be taken and never match, silently."""
    with pytest.raises(UserError, match=r"no page has this origin|no request names the server like this"):
        check_exposure(ServerSettings(**settings))  # type: ignore[arg-type]


def test_names_that_requests_have() -> None:
    origins = (
        "*",
        "null",
        "https://a.example/",
        "http://localhost:3000",
        "chrome-extension://abc",
        "tauri://localhost",
    )
    check_exposure(ServerSettings(hosts=("*", "a.example", "A.example.", "10.0.0.1"), origins=origins))
    Gate(ServerSettings(hosts=("A.example.",))).check_host("a.example:8000")


def test_a_page_may_send_the_fields_that_its_library_adds() -> None:
    """The libraries of OpenAI and Anthropic send X-Stainless-... with each request."""
    gate = Gate(ServerSettings(origins=("https://a.example",)))
    wanted = "authorization,content-type,x-stainless-lang"
    allowed = dict(gate.cors_headers("https://a.example", preflight=True, wanted=wanted))
    assert allowed[b"access-control-allow-headers"] == wanted.encode()
    assert b"X-Ignored-Fields" in allowed[b"access-control-expose-headers"]
    for strange in ("a\r\nb", "", "a b", "é"):
        fields = dict(gate.cors_headers("https://a.example", preflight=True, wanted=strange))
        assert fields[b"access-control-allow-headers"].startswith(b"Authorization, ")
