# ends: ok
import os

from attack import attempt

for name in (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sysrq-trigger",
    "/sys/kernel/uevent_helper",
    "/proc/self/uid_map",
    "/sys/power/state",
    "/proc/self/mem",
):
    attempt(name, os.open, name, os.O_WRONLY)
