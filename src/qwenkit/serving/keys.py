"""Keys: who asks, what they may take, and why no one sees what others have asked.

    keyring = read_key_file(Path("keys.toml"))           # several keys with names and limits of their own
    keyring = Keyring([Key.of("default", secret)])       # one key, of --api-key or the environment
    client = keyring.identify(presented)                 # None: nobody's key
    keyring.salt(client, "")                             # what the prefix cache of this client is kept apart by

The file is TOML, one table for each key:

    [alice]                        # the name, which stands in the log and in no answer
    key = "sk-..."                 # or  sha256 = "<64 hexadecimal digits of its SHA-256>"
    requests_per_minute = 60       # everything else is optional
    tokens_per_minute = 100000
    open_requests = 8
    prompt_tokens = 8192
    max_tokens = 1024
    priority = 0                   # lower numbers come first
    models = ["nano"]              # all, where it is not given
    load_adapters = true           # may load and unload adapters, where the server lets anybody

Only digests are kept in memory, and a comparison takes the same time whether a key is nearly right or not at all. Keys
are long and random, so a plain SHA-256 of one tells nothing.

A cache that is shared among clients tells one of them, by how soon a first token comes, what others have asked
(CVE-2025-46570). So the salt of a request is made here, from the name of its key and a secret that is drawn when the
server starts, whatever the request itself says; what it says (`cache_salt`) can only divide further.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenkit.errors import UserError, refuse_unnamed, within
from qwenkit.files import CONFIG_BYTES, read_bytes

SHORTEST = 16
"""Characters of a key, at least: what is shorter can be guessed."""
LONGEST = 512
ANYBODY = "anybody"
"""The name of a client where there are no keys."""
_LIMITS = ("requests_per_minute", "tokens_per_minute", "open_requests", "prompt_tokens", "max_tokens")
MOST = 2**20
"""The largest number of a priority, either way."""
_NAMES = ("key", "sha256", *_LIMITS, "priority", "models", "load_adapters")


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What one client may take; None: as much as there is."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Tokens of prompts and answers together."""
    open_requests: int | None = 256
    """Requests that are being read or answered at a time."""
    prompt_tokens: int | None = None
    max_tokens: int | None = None
    """Tokens of one answer."""


@dataclass(frozen=True)
class Client:
    """Somebody who may ask."""

    name: str
    allowance: Allowance = field(default_factory=Allowance)
    priority: int = 0
    """The priority of their requests; one of them may be put behind it, and never before it."""
    models: frozenset[str] | None = None
    """The names that they may ask; None: all."""
    load_adapters: bool = False
    """Whether they may load and unload adapters, where the server lets anybody."""


@dataclass(frozen=True)
class Key:
    """A key as it is kept: its digest, and whose it is."""

    digest: bytes
    client: Client

    @classmethod
    def of(cls, client: Client | str, secret: str) -> Key:
        """Return the key of a client; raises a `UserError` for one that can be guessed, or that no header holds."""
        client = Client(client) if isinstance(client, str) else client
        return cls(digest_of(checked_secret(secret, f"the key of {client.name}")), client)


def digest_of(secret: str) -> bytes:
    """Return the SHA-256 of a key."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def checked_secret(secret: str, where: str) -> str:
    """Return a key without the white space around it; raises a `UserError` that does not show it."""
    secret = secret.strip()
    if not SHORTEST <= len(secret) <= LONGEST:
        raise UserError(f"{len(secret)} characters", where=where, expected=f"{SHORTEST} to {LONGEST}",
                        hint="python3 -c 'import secrets; print(secrets.token_urlsafe(32))' makes one")  # fmt: skip
    if not all("!" <= sign <= "~" for sign in secret):
        raise UserError("signs that no header can hold", where=where, expected="letters, digits and signs of ASCII")
    return secret


class Keyring:
    """All keys of a server, and the secret that its salts are made from."""

    def __init__(self, keys: Sequence[Key] = (), anybody: Allowance | None = None) -> None:
        """Keep keys; without any, everybody is one client with the allowance `anybody`. Raises a `UserError` for two
        keys that are equal."""
        digests: dict[bytes, str] = {}
        for key in keys:
            if (other := digests.setdefault(key.digest, key.client.name)) != key.client.name:
                raise UserError(f"{other} and {key.client.name} have the same key", expected="one for each")
        self.keys = tuple(keys)
        self._anybody = Client(ANYBODY, anybody or Allowance())
        self._secret = secrets.token_bytes(32)

    @property
    def is_open(self) -> bool:
        """Return whether everybody may ask."""
        return not self.keys

    def identify(self, presented: str | None) -> Client | None:
        """Return whose key this is, or None. All keys are compared, however early one fits."""
        if self.is_open:
            return self._anybody
        digest, owner = digest_of(presented or ""), None
        for key in self.keys:
            if hmac.compare_digest(digest, key.digest):
                owner = key.client
        return owner

    def salt(self, client: Client, asked: str) -> str:
        """Return what a request's beginnings are shared by: equal for all requests of one client that ask the same."""
        message = f"{len(client.name)}:{client.name}{asked}"
        return hmac.new(self._secret, message.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def read_key_file(path: Path, default: Allowance | None = None, allow_readable: bool = False) -> Keyring:
    """Return the keys of a file; `default` is the allowance of those that say nothing else.

    Raises a `UserError` for a file that others may read (unless `allow_readable`), and for whatever in it is not a key;
    no message holds a key."""
    if not allow_readable:
        _refuse_readable(path)
    try:
        tables = tomllib.loads(read_bytes(path, CONFIG_BYTES, "a key file").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise UserError("this is not a key file", where=str(path), expected='[name], and below it: key = "..."',
                        hint="docs/serving.md shows one") from None  # fmt: skip
    if not tables:
        raise UserError("there is no key in it", where=str(path), expected='[name], and below it: key = "..."')
    return Keyring([_read_key(name, table, f"{path}, [{name}]", default or Allowance())
                    for name, table in tables.items()])  # fmt: skip


def _refuse_readable(path: Path) -> None:
    try:
        file = os.stat(path)
    except OSError as error:
        raise UserError(f"the key file cannot be read ({error.strerror})", where=str(path)) from error
    if os.name != "posix":
        return
    if file.st_uid not in (0, os.geteuid()):
        raise UserError("it belongs to another user, who may change it", where=str(path),
                        expected="a key file of your own")  # fmt: skip
    mode = stat.S_IMODE(file.st_mode)
    if mode & 0o027:
        raise UserError(f"others may read or change it (mode {mode:o})", where=str(path),
                        expected="a key file of your own", hint=f"chmod 600 {path}")  # fmt: skip


def _read_key(name: str, table: Any, where: str, default: Allowance) -> Key:
    """Return one table of the file as a key."""
    if not isinstance(table, dict):
        raise UserError("this is not a table", where=where, expected='[name], and below it: key = "..."')
    with within(where):
        refuse_unnamed("setting of a key", table, _NAMES)
    client = Client(
        name,
        _allowance(table, where, default),
        _integer(table, "priority", where, -MOST) or 0,
        _models(table, where),
        _flag(table, "load_adapters", where),
    )
    given = [key for key in ("key", "sha256") if isinstance(table.get(key), str)]
    if len(given) != 1:
        raise UserError("key or sha256, one of them", where=where, expected='key = "..."')
    if given == ["key"]:
        return Key(digest_of(checked_secret(table["key"], where)), client)
    try:
        digest = bytes.fromhex(table["sha256"])
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise UserError("sha256 is not a digest", where=where, expected="64 hexadecimal digits")
    return Key(digest, client)


def _allowance(table: Mapping[str, Any], where: str, default: Allowance) -> Allowance:
    given = {name: _integer(table, name, where, 1) for name in _LIMITS if name in table}
    return Allowance(**{**vars(default), **given})


def _integer(table: Mapping[str, Any], name: str, where: str, least: int) -> int | None:
    value = table.get(name)
    if value is not None and (type(value) is not int or not least <= value < 2**31):
        raise UserError(f"{name} = {value!r}", where=where, expected=f"an integer from {least} on")
    return value


def _flag(table: Mapping[str, Any], name: str, where: str) -> bool:
    value = table.get(name, False)
    if not isinstance(value, bool):
        raise UserError(f"{name} = {value!r}", where=where, expected="true or false")
    return value


def _models(table: Mapping[str, Any], where: str) -> frozenset[str] | None:
    names = table.get("models")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"models = {names!r}", where=where, expected='a list of names, such as ["nano"]')
    return frozenset(names)
