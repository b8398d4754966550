"""The wheel and the source distribution hold the whole package, and the wheel works away from the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

BUILD = "import sys, hatchling.build as build; print(getattr(build, 'build_' + sys.argv[1])(sys.argv[2]))"


def tracked() -> list[str]:
    """Return the files of the repository that git does not ignore."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode:
        pytest.skip("not a git repository: which files belong to the package is not known")
    return [name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


def package_files() -> set[str]:
    """Return the files of the package as they are called in a wheel."""
    return {name.removeprefix("src/") for name in tracked() if name.startswith("src/qwenkit/")}


def build(what: str, tree: Path, out: Path) -> Path:
    """Build a `wheel` or an `sdist` of a tree."""
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD, what, str(out)]
    built = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    return out / built.stdout.splitlines()[-1]


def missing(wheel: Path) -> set[str]:
    """Return the files of the package that a wheel lacks."""
    with zipfile.ZipFile(wheel) as archive:
        return package_files() - set(archive.namelist())


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the repository, without anything that was built."""
    folder = tmp_path_factory.mktemp("clean")
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tree, tmp_path_factory.mktemp("wheel"))


def run_wheel(unpacked: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python on the unpacked wheel, in a folder that knows nothing of the repository."""
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "COLUMNS": "120"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    assert not missing(wheel)
    suffixes = {Path(name).suffix for name in package_files()}
    assert {".py", ".typed", ".toml", ".j2", ".css", ".html"} <= suffixes  # the listing itself knows the data files


def test_a_wheel_without_a_data_file_is_noticed(wheel: Path, tmp_path: Path) -> None:
    without = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(without, "w") as target:
        for name in source.namelist():
            if not name.endswith(("alarms.toml", "review.css")):
                target.writestr(name, source.read(name))
    assert {Path(name).name for name in missing(without)} == {"alarms.toml", "review.css"}


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    import qwenkit

    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        metadata = archive.read(name).decode()
        licences = {Path(name).name for name in archive.namelist() if "/licenses/" in name}
    assert f"\nVersion: {qwenkit.__version__}\n" in metadata and "\nLicense-Expression: Apache-2.0\n" in metadata
    assert licences == {"LICENSE", "NOTICE"}


def test_the_wheel_works_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    unpacked, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    place = run_wheel(unpacked, empty, "-c", "import qwenkit; print(qwenkit.__file__)")
    assert Path(place.stdout.strip()).is_relative_to(unpacked), place.stderr
    for arguments, expected in {
        ("--help",): "Usage",
        ("recipes",): "nano-quick",
        ("init", "mine.toml", "--from", "nano"): "mine.toml",
        ("run", "mine.toml", "--dry-run"): "chat-rlhf",
    }.items():
        answer = run_wheel(unpacked, empty, "-m", "qwenkit.cli", *arguments)
        assert answer.returncode == 0, answer.stderr
        assert expected in answer.stdout
    assert sorted(path.name for path in empty.iterdir() if path.is_file()) == ["mine.toml"]


def test_the_source_distribution_builds_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", tree, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "tree", filter="data")
    (source,) = (tmp_path / "tree").iterdir()
    assert {"tests", "docs", "benchmarks", "LICENSE", "NOTICE", "CHANGELOG.md"} <= {
        path.name for path in source.iterdir()
    }
    again = build("wheel", source, tmp_path / "again")
    assert again.name == wheel.name and again.read_bytes() == wheel.read_bytes()


@pytest.mark.soak
def test_the_wheel_trains_a_family_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    install = [str(binaries / "python"), "-m", "pip", "install", "--quiet", *constraints, str(wheel)]
    subprocess.run(install, cwd=tmp_path, env=environment, check=True, timeout=3600)
    (tmp_path / "empty").mkdir()
    command = [str(binaries / "qwenkit"), "run", "nano-quick"]
    subprocess.run(command, cwd=tmp_path / "empty", env=environment, check=True, timeout=3600)
    assert (tmp_path / "empty/runs/nano-quick/report.html").is_file()
