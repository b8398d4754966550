# ends: ok
import os

from attack import attempt

with open("sparse", "wb") as file:
    attempt("a sparse file", file.truncate, 1 << 40)
    attempt("a reserved one", os.posix_fallocate, file.fileno(), 0, 1 << 30)
