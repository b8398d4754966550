# ends: ok
import ctypes

from attack import attempt, syscall

attempt("host name", syscall, 170, 161, ctypes.c_char_p(b"x"), 1)
attempt("domain name", syscall, 171, 162, ctypes.c_char_p(b"x"), 1)
