# ends: ok
import ctypes

from attack import attempt, syscall

text = ctypes.c_char_p
attempt("swapon", syscall, 167, 224, text(b"x"), 0)
attempt("quotactl", syscall, 179, 60, 0, None, 0, None)
attempt("acct", syscall, 163, 89, text(b"x"))
attempt("sync", syscall, 162, 81)
