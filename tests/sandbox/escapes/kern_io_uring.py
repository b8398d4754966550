# ends: ok
import ctypes

from attack import attempt, syscall

attempt("io_uring", syscall, 425, 425, 4, ctypes.create_string_buffer(120))
attempt("aio", syscall, 206, 0, 4, ctypes.byref(ctypes.c_ulong()))
