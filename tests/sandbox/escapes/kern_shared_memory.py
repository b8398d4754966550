# ends: ok
import ctypes

from attack import attempt, syscall

attempt("shmget", syscall, 29, 194, 1234, 4096, 0o1666)
attempt("semget", syscall, 64, 190, 1234, 1, 0o1666)
attempt("msgget", syscall, 68, 186, 1234, 0o1666)
attempt("mq_open", syscall, 240, 180, ctypes.c_char_p(b"x"), 0o102, 0o666, None)
