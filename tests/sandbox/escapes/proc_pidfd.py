# ends: ok
import os

from attack import attempt, others, syscall

for pid in others():

    def take():
        fd = os.pidfd_open(pid)
        return syscall(438, 438, fd, 0, 0)

    attempt("a descriptor of another process", take)

    def send():
        fd = os.pidfd_open(pid)
        return syscall(424, 424, fd, 0, 0, 0)

    attempt("a signal by descriptor", send)
