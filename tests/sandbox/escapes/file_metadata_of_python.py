# ends: ok
import os
import sys

from attack import attempt

for path in (os.path.realpath(sys.executable), os.__file__):
    attempt("Python's mode", os.chmod, path, 0o777)
    attempt("Python's time", os.utime, path, (1, 1))
    fd = os.open(path, os.O_RDONLY)
    attempt("Python's mode, opened", os.fchmod, fd, 0o777)
    attempt("Python's time, opened", os.utime, fd, (1, 1))
