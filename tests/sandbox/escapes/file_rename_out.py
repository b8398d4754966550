# ends: ok
import ctypes
import os

from attack import attempt, host, syscall

open("x", "w").write("x")
attempt("a file moved out", os.rename, "x", host["folder"] + "/moved")
attempt("a file moved in", os.rename, host["canary"], "got")
attempt(
    "an exchange", syscall, 316, 276, -100, ctypes.c_char_p(b"x"), -100, ctypes.c_char_p(host["canary"].encode()), 2
)
