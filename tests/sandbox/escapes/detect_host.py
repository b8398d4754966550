# ends: ok
import os

from attack import expect, host, read

expect("the host's name", os.uname().nodename == "sandbox" or host["tier"] == "landlock")
try:
    first = read("/proc/1/cmdline")
except OSError:
    first = ""
expect("its first process", "init" not in first and "systemd" not in first)
