# ends: ok
import os

from attack import attempt, syscall

for flag in (0x10000000, 0x20000, 0x40000000):

    def clone():
        pid = syscall(56, 220, flag | 17, 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        return pid

    attempt(f"clone {flag:x}", clone)
