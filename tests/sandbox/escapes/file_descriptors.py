# ends: ok
import os

from attack import expect

fds = []
for fd in range(3, 1024):
    try:
        os.fstat(fd)
        fds.append(fd)
    except OSError:
        pass
expect(f"open descriptors {fds}", not fds)
