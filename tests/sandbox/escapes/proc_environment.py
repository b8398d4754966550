# ends: ok
import os

from attack import expect, host, read

expect("the host's environment", host["secret"] not in repr(dict(os.environ)))
expect(
    "the host's arguments", "runner" not in read("/proc/self/cmdline") if os.path.exists("/proc/self/cmdline") else 1
)
