"""The filter, run by a small machine of the test's own, and its table beside the kernel's headers."""

from __future__ import annotations

import platform
import re
import struct
from pathlib import Path

import pytest

from qwenkit.sandbox import seccomp

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026


def judge(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Return what a filter says of a call: an interpreter of the few instructions that it uses."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    at = value = 0
    while True:
        code, if_true, if_false, operand = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        match code:
            case 0x20:
                value = struct.unpack_from("=I", data, operand)[0]
            case 0x54:
                value &= operand
            case 0x15 | 0x25 | 0x35:
                holds = {0x15: value == operand, 0x25: value > operand, 0x35: value >= operand}[code]
                at += if_true if holds else if_false
            case 0x06:
                return operand
            case _:
                raise AssertionError(code)


@pytest.fixture(params=sorted(seccomp.ARCHITECTURES))
def machine(request: pytest.FixtureRequest) -> str:
    return request.param


def said(machine: str, name: str, *arguments: int, **how: bool) -> int:
    program = seccomp.program(how.pop("metadata", True), machine=machine, **how)
    return judge(program, seccomp.ARCHITECTURES[machine], seccomp.numbers(machine)[name], *arguments)


def test_servers_are_told_that_their_policy_is_set(machine: str) -> None:
    """`sched_setscheduler` answers 0 without being made, and is refused to everybody else."""
    number = seccomp.numbers(machine)["sched_setscheduler"]
    program = seccomp.program(True, serving=True, machine=machine)
    assert judge(program, seccomp.ARCHITECTURES[machine], number) == 0x00050000
    assert judge(seccomp.program(True, machine=machine), seccomp.ARCHITECTURES[machine], number) == EPERM


def test_each_call_of_the_table_is_judged(machine: str) -> None:
    """What has no condition is allowed but for sockets; a number that no rule names is refused."""
    numbers = seccomp.numbers(machine)
    refused = {name for name in numbers if said(machine, name) != ALLOW}
    assert refused == {*seccomp.SERVING, "connect", "clone3", "socketpair", "ioctl", "prctl", "sched_setscheduler"}
    program = seccomp.program(True, machine=machine)
    for number in range(max(numbers.values())):
        if number not in numbers.values():
            assert judge(program, seccomp.ARCHITECTURES[machine], number) == EPERM


def test_calls_that_are_not_known_do_not_exist(machine: str) -> None:
    program = seccomp.program(True, machine=machine)
    for number in (max(seccomp.numbers(machine).values()) + 1, 462, 600, 0x3FFFFFFF):
        assert judge(program, seccomp.ARCHITECTURES[machine], number) == ENOSYS
    assert said(machine, "clone3") == ENOSYS


def test_another_architecture_is_killed(machine: str) -> None:
    program = seccomp.program(True, machine=machine)
    assert judge(program, 0x40000003, 1) == KILL  # 32 bits
    assert judge(program, seccomp.ARCHITECTURES[machine], 0x40000000 + 39) == KILL  # x32


@pytest.mark.parametrize(
    ("name", "arguments", "allowed"),
    [
        ("clone", (0x11,), True),
        ("clone", (0x003D0F00,), True),
        *[("clone", (0x11 | flag,), False) for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x4000000)],
        ("socketpair", (1, 1), True),
        ("socketpair", (1, 5 | 0x80000), True),
        ("socketpair", (1, 2), False),
        ("socketpair", (2, 1), False),
        ("ioctl", (0, 0x5401), True),
        ("ioctl", (0, 0x5412), False),
        ("ioctl", (0, 0x541C), False),
        ("prctl", (15,), True),
        ("prctl", (22,), False),
        ("prctl", (4,), False),
        ("prlimit64", (0,), True),
        ("prlimit64", (1,), False),
        ("personality", (0xFFFFFFFF,), True),
        ("personality", (0x40000,), False),
        ("socket", (1, 1), False),
    ],
)
def test_arguments(machine: str, name: str, arguments: tuple[int, ...], allowed: bool) -> None:
    assert said(machine, name, *arguments) == (ALLOW if allowed else EPERM)


def test_a_server_on_a_socket_of_the_file_system(machine: str) -> None:
    assert said(machine, "socket", 1, 1 | 0x80000, serving=True) == ALLOW
    for family, kind in ((1, 2), (2, 1), (10, 1), (16, 3), (0x100000001, 2)):
        assert said(machine, "socket", family, kind, serving=True) == EPERM
    assert said(machine, "accept4", serving=True) == ALLOW
    assert said(machine, "connect", serving=True) == EPERM
    assert said(machine, "connect", serving=True, connecting=True) == ALLOW


def test_metadata_is_left_out(machine: str) -> None:
    for name in seccomp.METADATA & seccomp.numbers(machine).keys():
        assert said(machine, name, metadata=False) == EPERM
        assert said(machine, name, metadata=True) == ALLOW


HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}


def test_numbers_are_the_headers_own(machine: str) -> None:
    header = Path(HEADERS[machine])
    if not header.exists():
        pytest.skip(f"the kernel's headers for {machine} are not installed")
    text = header.read_text()
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", text)}
    if machine == "aarch64":
        known["newfstatat"] = known["fstatat"]
    for name, number in seccomp.numbers(machine).items():
        assert known[name] == number, name


def test_what_lets_out_is_in_no_table() -> None:
    names = set(seccomp.numbers("x86_64")) | set(seccomp.numbers("aarch64"))
    assert not names & set(
        "ptrace mount umount2 pivot_root chroot unshare setns bpf keyctl add_key io_uring_setup userfaultfd kexec_load "
        "process_vm_readv process_vm_writev pidfd_getfd open_by_handle_at perf_event_open init_module syslog "
        "memfd_create inotify_init1 fanotify_init shmget msgget semget setuid setresuid".split()
    )


def test_a_machine_without_a_table() -> None:
    assert platform.machine() not in ("riscv64",) and "riscv64" not in seccomp.ARCHITECTURES
    with pytest.raises(ValueError):
        seccomp.program(True, machine="riscv64")
