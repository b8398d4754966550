# ends: ok
import os

from attack import expect

for name in ("/proc/kmsg", "/dev/kmsg", "/proc/kcore", "/proc/kallsyms", "/proc/keys", "/proc/cmdline", "/proc/iomem"):
    try:
        text = os.read(os.open(name, os.O_RDONLY | os.O_NONBLOCK), 100)
    except OSError:
        text = b""
    expect(name, not text)
