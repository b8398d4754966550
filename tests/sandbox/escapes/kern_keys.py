# ends: ok
import ctypes

from attack import attempt, syscall

text = ctypes.c_char_p
attempt("add_key", syscall, 248, 217, text(b"user"), text(b"x"), text(b"y"), 1, -3)
attempt("request_key", syscall, 249, 218, text(b"user"), text(b"x"), None, 0)
attempt("keyctl", syscall, 250, 219, 0, -3, 1)
