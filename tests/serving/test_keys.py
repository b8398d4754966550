"""Keys: the file, the comparison, the salts, and what no message tells."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from qwenkit.errors import UserError
from qwenkit.serving.codecs import CODECS
from qwenkit.serving.keys import ANYBODY, Allowance, Client, Key, Keyring, digest_of, read_key_file
from tests.serving.asgi import ask
from tests.serving.conftest import Desk

SECRET, OTHER = "sk-alice-0123456789", "sk-bob-0123456789ab"


def key_file(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_each_key_is_its_own_client_with_its_own_limits(tmp_path: Path) -> None:
    text = f'''
    [alice]  # the owner
    key = "{SECRET}"
    requests_per_minute = 60
    priority = -1
    models = ["nano"]

    [bob]
    sha256 = "{digest_of(OTHER).hex()}"
    '''
    keyring = read_key_file(key_file(tmp_path, text), Allowance(tokens_per_minute=1000))
    alice, bob = keyring.identify(SECRET), keyring.identify(OTHER)
    assert alice == Client("alice", Allowance(requests_per_minute=60, tokens_per_minute=1000), -1, frozenset({"nano"}))
    assert bob == Client("bob", Allowance(tokens_per_minute=1000))
    assert keyring.identify(None) is keyring.identify("") is keyring.identify(SECRET[:-1]) is None
    assert keyring.identify("schlüssel\udcff") is None


def test_no_secret_stays_in_memory(tmp_path: Path) -> None:
    keyring = read_key_file(key_file(tmp_path, f'[alice]\nkey = "{SECRET}"\n'))
    assert SECRET not in repr(keyring.keys) and SECRET.encode() not in keyring.keys[0].digest


def test_without_keys_everybody_is_one_client() -> None:
    keyring = Keyring(anybody=Allowance(open_requests=2))
    assert keyring.is_open and keyring.identify(None) == Client(ANYBODY, Allowance(open_requests=2))


def test_salts_are_of_the_key_and_of_this_start() -> None:
    """What the client says divides further, and can never make its salt another client's."""
    keyring = Keyring([Key.of("a", SECRET), Key.of("ab", OTHER)])
    a, ab = keyring.keys[0].client, keyring.keys[1].client
    salts = [
        keyring.salt(a, ""),
        keyring.salt(a, "x"),
        keyring.salt(a, "b"),
        keyring.salt(ab, ""),
        keyring.salt(ab, "x"),
    ]
    assert len(set(salts)) == len(salts)
    assert keyring.salt(a, "x") == keyring.salt(a, "x")
    assert Keyring(keyring.keys).salt(a, "") != keyring.salt(a, "")


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o602, 0o777])
def test_a_file_that_others_may_read_or_change(tmp_path: Path, mode: int) -> None:
    path = key_file(tmp_path, f'[a]\nkey = "{SECRET}"\n', mode)
    with pytest.raises(UserError) as caught:
        read_key_file(path)
    assert caught.value.text() == (
        f"{path}: others may read or change it (mode {mode:o})\n  expected: a key file of your own\n"
        f"  hint: chmod 600 {path}"
    )
    assert read_key_file(path, allow_readable=True).identify(SECRET)
    path.chmod(0o440)  # as a cluster mounts a secret for a group
    assert read_key_file(path).identify(SECRET)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'there is no key in it\n  expected: [name], and below it: key = "..."'),
        (f"{SECRET}\n", 'this is not a key file\n  expected: [name], and below it: key = "..."\n'
         "  hint: docs/serving.md shows one"),
        ('[a]\nkey = "short"', "5 characters\n  expected: 16 to 512\n"
         "  hint: python3 -c 'import secrets; print(secrets.token_urlsafe(32))' makes one"),
        (f'[a]\nkey = "{SECRET} x"', "signs that no header can hold\n  expected: letters, digits and signs of ASCII"),
        (f'[a]\nkey = "{SECRET}"\nsha256 = "00"', 'key or sha256, one of them\n  expected: key = "..."'),
        ('[a]\nsha256 = "00"', "sha256 is not a digest\n  expected: 64 hexadecimal digits"),
        (f'a = "{SECRET}"', 'this is not a table\n  expected: [name], and below it: key = "..."'),
        (f'[a]\nkey = "{SECRET}"\nopen_requests = 0', "open_requests = 0\n  expected: an integer from 1 on"),
        (f'[a]\nkey = "{SECRET}"\nmodels = "nano"', "models = 'nano'\n  expected: a list of names, such as [\"nano\"]"),
    ],
)  # fmt: skip
def test_what_is_not_a_key(tmp_path: Path, text: str, message: str) -> None:
    path = key_file(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_key_file(path)
    where, _, rest = caught.value.text().partition(": ")
    assert rest == message and where in (str(path), f"{path}, [a]")
    assert SECRET not in caught.value.text()


def test_a_file_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may change the file may give themselves a key."""
    path = key_file(tmp_path, f'[a]\nkey = "{SECRET}"\n')
    mine = os.stat(path)
    other = os.stat_result([*mine[:4], os.geteuid() + 1, *mine[5:]])
    monkeypatch.setattr(os, "stat", lambda name, **more: other)
    with pytest.raises(UserError) as caught:
        read_key_file(path)
    assert caught.value.text() == (
        f"{path}: it belongs to another user, who may change it\n  expected: a key file of your own"
    )
    assert read_key_file(path, allow_readable=True).identify(SECRET)


def test_a_misspelt_setting_and_one_key_for_two(tmp_path: Path) -> None:
    path = key_file(tmp_path, f'[a]\nkey = "{SECRET}"\nrequest_per_minute = 1')
    with pytest.raises(UserError) as caught:
        read_key_file(path)
    assert caught.value.text().startswith(f"{path}, [a]: `request_per_minute` is not a setting of a key\n")
    with pytest.raises(UserError, match="a and b have the same key"):
        read_key_file(key_file(tmp_path, f'[a]\nkey = "{SECRET}"\n[b]\nkey = "{SECRET}"'))


def cached_tokens(app: Any, path: str, body: dict[str, Any], secret: str | None) -> int:
    """Ask with a key; return how many tokens of the prompt were found in the cache."""
    fields = {} if secret is None else {"authorization": f"Bearer {secret}"}
    used = ask(app, "POST", path, body, **fields).json["usage"]
    if "input_tokens_details" in used:
        return used["input_tokens_details"]["cached_tokens"]
    return (
        used["prompt_tokens_details"]["cached_tokens"] if "prompt_tokens" in used else used["cache_read_input_tokens"]
    )


LONG = "The river runs past the old mill. " * 6


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/completions", {"prompt": LONG, "max_tokens": 1}),
     ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}], "max_tokens": 1}),
     ("/v1/responses", {"input": LONG, "max_output_tokens": 1}),
     ("/v1/messages", {"messages": [{"role": "user", "content": LONG}], "max_tokens": 1})],
)  # fmt: skip
def test_two_keys_share_no_beginning_and_one_key_does(desk: Desk, path: str, body: dict[str, Any]) -> None:
    """`benchmarks/serve_key_timing.py` shows that the time to a first token does not tell either."""
    app = desk.app(codecs=CODECS, keyring=Keyring([Key.of("alice", SECRET), Key.of("bob", OTHER)]))
    assert [cached_tokens(app, path, body, secret) for secret in (SECRET, OTHER)] == [0, 0]
    alice, bob = cached_tokens(app, path, body, SECRET), cached_tokens(app, path, body, OTHER)
    assert alice == bob > 32  # all but the last block, for each of its own


def test_without_keys_everybody_shares(desk: Desk) -> None:
    app, body = desk.app(codecs=CODECS), {"prompt": LONG, "max_tokens": 1}
    assert cached_tokens(app, "/v1/completions", body, None) == 0 < cached_tokens(app, "/v1/completions", body, None)
