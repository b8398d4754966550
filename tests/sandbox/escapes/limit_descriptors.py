# ends: ok
import os

from attack import expect

fds = []
try:
    for _ in range(5000):
        fds.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
count = len(fds)
del fds
expect(f"{count} descriptors", count < 300)
