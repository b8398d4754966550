# ends: ok
import os

from attack import attempt, host

path = host["canary"]
attempt("its mode", os.chmod, path, 0o777)
attempt("its owner", os.chown, path, os.getuid(), os.getgid())
attempt("its time", os.utime, path, (1, 1))
attempt("its attributes", os.setxattr, path, "user.x", b"x")
