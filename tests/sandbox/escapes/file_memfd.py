# ends: ok
import ctypes

from attack import attempt, syscall

attempt("a file of memory", syscall, 319, 279, ctypes.c_char_p(b"x"), 0)
attempt("secret memory", syscall, 447, 447, 0)
