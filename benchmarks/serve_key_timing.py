"""Whether the time to a first token tells one key what another one has asked (CVE-2025-46570); it must not.

    python benchmarks/serve_key_timing.py                             # a tiny random model
    python benchmarks/serve_key_timing.py MODEL --pairs 12 --tokens 500

Starts `qwenkit serve` with the keys of alice and bob. Each pair has two new prompts of random token ids, one of which
alice asks. Then bob asks both, in alternating order, and so does alice: she must get hers sooner, which shows that this
test can tell. Of each key it prints how many tokens were found in the cache, the mean of ln(seconds of the new prompt /
seconds of alice's) with its 95 % interval (BCa bootstrap over pairs), p of the sign-flip test, and how often alice's
prompt came sooner (Wilson's interval; half of the pairs where nothing can be told). Logarithms, since a machine that
also does other things makes a request now and then much longer, and none much shorter.

Good: nothing is found for bob, most of the prompt for alice, and bob's interval lies within a tenth of what alice
saves. That says more than a p above 0.05, which one of twenty runs misses by chance. The exit code is 1 where it is
not good.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.stages.conftest import make_folder

from qwenkit.statistics import Difference, paired_difference, wilson

LIMIT = 300.0
KEYS = {"alice": "sk-alice-0123456789", "bob": "sk-bob-0123456789ab"}
SMALL_SHARE = 0.1
"""How much of what alice saves bob's interval may reach, either way."""
WARM_UP = 2


class Asked(NamedTuple):
    """What one request took."""

    seconds: float
    """From its first byte to the first token."""
    found: int
    """Tokens of the prompt that were in the cache."""


class Client:
    """One key on one connection."""

    def __init__(self, port: int, key: str) -> None:
        """Connect when first asked."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def ask(self, ids: list[int]) -> Asked:
        """Ask for one token after these."""
        body = {"prompt": ids, "max_tokens": 1, "temperature": 0, "stream": True, "ignore_eos": True,
                "stream_options": {"include_usage": True}}  # fmt: skip
        sent = json.dumps(body)
        start = time.perf_counter()
        self._connection.request("POST", "/v1/completions", sent, self._headers)
        response = self._connection.getresponse()
        first = response.readline()
        seconds = time.perf_counter() - start
        frames = (first + response.read()).decode().split("\n\n")
        assert response.status == 200, frames[0]
        used = next(
            used for frame in frames if frame.startswith("data: {") and (used := json.loads(frame[6:])["usage"])
        )
        return Asked(seconds, used["prompt_tokens_details"]["cached_tokens"])


@contextmanager
def server(model: Path, place: Path, threads: int) -> Iterator[int]:
    """Run `qwenkit serve` with both keys; give its port."""
    keys = place / "keys.toml"
    keys.write_text("".join(f'[{name}]\nkey = "{key}"\n' for name, key in KEYS.items()))
    keys.chmod(0o600)
    command = [sys.executable, "-m", "qwenkit.cli", "serve", str(model), "--port", "0", "--threads", str(threads),
               "--api-key-file", str(keys), "--kv-tokens", "16384", "--log", "none"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        assert process.stdout.readline().startswith("serving"), "the server did not start"
        yield int(address.rpartition(":")[2])
    finally:
        process.terminate()
        process.wait(LIMIT)


def measure(port: int, pairs: int, tokens: int, vocabulary: int, seed: int) -> dict[str, list[tuple[Asked, Asked]]]:
    """Return for each key the requests of its pairs: alice's prompt, and a new one."""
    rng = random.Random(seed)
    clients = {name: Client(port, key) for name, key in KEYS.items()}
    measured: dict[str, list[tuple[Asked, Asked]]] = {name: [] for name in KEYS}
    for pair in range(-WARM_UP, pairs):
        asked_before = new_ids(rng, tokens, vocabulary)
        clients["alice"].ask(asked_before)
        for name in ("bob", "alice"):  # bob first: alice's second request must not make her prompt younger for him
            prompts = [asked_before, new_ids(rng, tokens, vocabulary)]
            order = (0, 1) if pair % 2 else (1, 0)
            answers = {which: clients[name].ask(prompts[which]) for which in order}
            if pair >= 0:
                measured[name].append((answers[0], answers[1]))
    return measured


def new_ids(rng: random.Random, tokens: int, vocabulary: int) -> list[int]:
    """Return a prompt that nobody has asked."""
    return [rng.randrange(vocabulary) for _ in range(tokens)]


def shown(name: str, rows: list[tuple[Asked, Asked]]) -> Difference:
    """Print what came of one key's pairs; return how much sooner alice's prompts were, as ln(new seconds / old)."""
    old, new = [before.seconds for before, _ in rows], [fresh.seconds for _, fresh in rows]
    difference = paired_difference([math.log(value) for value in new], [math.log(value) for value in old])
    sooner = wilson(sum(a < b for a, b in zip(old, new, strict=True)), len(rows))
    cached = sorted(before.found for before, _ in rows)
    print(
        f"{name:<6} found {cached[0]} to {cached[-1]} tokens of alice's prompts, "
        f"at most {max(fresh.found for _, fresh in rows)} of new ones\n"
        f"       medians {statistics.median(old):.4f} s and {statistics.median(new):.4f} s, ln(new / alice's) "
        f"{difference.mean:+.4f} ({difference.low:+.4f} to {difference.high:+.4f}), p = {difference.p:.4f}\n"
        f"       alice's prompt sooner in {sooner.mean:.0%} of the pairs ({sooner.low:.0%} to {sooner.high:.0%})"
    )
    return difference


def main(model: Path, place: Path, pairs: int, tokens: int, vocabulary: int, threads: int, seed: int) -> bool:
    """Measure, print, and return whether a first token tells nothing."""
    with server(model, place, threads) as port:
        measured = measure(port, pairs, tokens, vocabulary, seed)
    print(f"{pairs} pairs of prompts of {tokens} tokens")
    bob, alice = (shown(name, measured[name]) for name in ("bob", "alice"))
    apart = all(not asked.found for row in measured["bob"] for asked in row)
    shared = all(before.found > tokens / 2 and not fresh.found for before, fresh in measured["alice"])
    can_tell = alice.low is not None and alice.low > 0
    reach = max(abs(bob.low or 0), abs(bob.high or 0)) / abs(alice.mean)
    good = apart and shared and can_tell and reach <= SMALL_SHARE
    print(f"another key's prompts: none found {apart}, interval within {reach:.1%} of what the same key saves; "
          f"the same key's: found {shared}, sooner {can_tell}: {'good' if good else 'BAD'}")  # fmt: skip
    return good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    for name, default in (("pairs", 400), ("tokens", 500), ("vocabulary", 300), ("threads", 1), ("seed", 17)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        model = given.model or make_folder(place / "tiny", positions=2048)
        good = main(model, place, given.pairs, given.tokens, given.vocabulary, given.threads, given.seed)
    sys.exit(0 if good else 1)
