"""`qwenkit doctor --env`: what of this machine matters to qwenkit."""

from __future__ import annotations

import contextlib
import platform as _platform
from typing import Annotated

import typer

from qwenkit.cli.app import Json, app, print_json, say
from qwenkit.errors import UserError


@app.command(epilog="Example:  qwenkit doctor --env")
def doctor(
    env: Annotated[bool, typer.Option("--env", help="the environment: versions, devices, compiler, sandbox")] = False,
    as_json: Json = False,
) -> None:
    """Show what this machine has of what matters here: Python, packages, devices, the compiler, and the sandbox in
    which generated programs run, found out by trying it."""
    if not env:
        raise UserError("nothing to look at", where="qwenkit doctor", expected="--env")
    rows = _environment()
    if as_json:
        print_json(rows)
        return
    width = max(map(len, rows))
    say("\n".join(f"{name:<{width}}  {value}" for name, value in rows.items()))


def _environment() -> dict[str, str]:
    """Return the rows of the answer."""
    from qwenkit import platform

    versions = platform.versions()
    own = {name: versions.pop(name, "not installed as a package") for name in ("python", "qwenkit")}
    memory = platform.memory_bytes() / 1e9
    return {
        "python": f"{own['python']} on {_platform.system()} {_platform.release()} ({_platform.machine()})",
        "qwenkit": own["qwenkit"],
        "packages": ", ".join(f"{name} {value}" for name, value in versions.items()),
        "processor": f"{platform.cpu_model()}, {platform.free_cores()} cores, {memory:.1f} GB",
        "devices": ", ".join(_devices()),
        "compiler": platform.compiler() or "none: the engine computes by torch",
        **_sandbox(),
    }


def _devices() -> list[str]:
    """Return the names of the devices, with those of accelerators as they call themselves."""
    from qwenkit import platform

    names = []
    for device in platform.devices_here():
        described = None
        with contextlib.suppress(Exception):
            described = None if device == "cpu" else platform.accelerator(device)["name"]
        names.append(f"{device} ({described})" if described else device)
    return names


def _sandbox() -> dict[str, str]:
    """Return a row for the sandbox that is used, and one for each tier with the reason where it does not work."""
    from qwenkit.sandbox import probe
    from qwenkit.sandbox.languages import available
    from qwenkit.sandbox.probe import BACKENDS

    tiers = [probe(backend) for backend in BACKENDS]
    first = next((tier.backend for tier in tiers if tier.works), "none: no generated program is run")
    rows = {"sandbox": str(first)}
    for tier in tiers:
        rows[f"  {tier.backend}"] = tier.text().split(": ", 1)[1] + (f" ({tier.hint})" if tier.hint else "")
    return {**rows, "languages": ", ".join(available())}
