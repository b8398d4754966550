"""Ask a server whatever its own schema allows, and what it does not: every answer must be as the schema says.

    python benchmarks/serve_schema.py --examples 500 --seconds 1800

Starts `qwenkit serve` on a tiny random model in a process of its own, with a key, and has schemathesis read its
`/openapi.json` and ask each operation: its example, the edges of each field, and random bodies, right and wrong ones.
A fault (5xx), a status, header, content type or body that the schema does not name, a wrong body that is taken and a
key that is not asked for are failures; the exit code is then 1. That a random body is taken is not asked: fields
contradict each other in ways that no schema says. `tests/serving/test_openapi.py` is the short form.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.stages.conftest import make_folder

LIMIT = 120.0
SECRET = "sk-0123456789abcdef"
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance,negative_data_rejection,unsupported_method,allow_header_conformance,ignored_auth"
)


def check(address: str, examples: int, seconds: int, seed: int) -> int:
    """Run schemathesis against a server; return its exit code."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json",
               "--header", f"X-Api-Key: {SECRET}", "--checks", CHECKS, "--phases", "examples,coverage,fuzzing",
               "--max-examples", str(examples), "--max-time", str(seconds), "--seed", str(seed),
               "--generation-with-security-parameters", "false", "--request-timeout", "60", "--continue-on-failure",
               "--generation-database", "none", "--suppress-health-check", "all", "--no-color"]  # fmt: skip
    return subprocess.run(command, check=False, timeout=seconds + 10 * LIMIT).returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("examples", 500), ("seconds", 1800), ("seed", 17)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = make_folder(Path(place) / "tiny")
        command = [sys.executable, "-m", "qwenkit.cli", "serve", str(folder), "--port", "0", "--threads", "1",
                   "--kv-tokens", "8192", "--max-tokens", "8", "--log", str(Path(place) / "log")]  # fmt: skip
        environment = {**os.environ, "QWENKIT_API_KEY": SECRET}
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[0]
            assert server.stdout.readline().startswith("serving"), "the server did not start"
            code = check(address, given.examples, given.seconds, given.seed)
        finally:
            server.terminate()
            server.wait(LIMIT)
        faults = [line for line in (Path(place) / "log").read_text().splitlines() if '"fault"' in line]
        print(f"{len(faults)} faults in the server's log", *faults[:5], sep="\n")
    sys.exit(code or bool(faults))
