# ends: ok
import ctypes

from attack import attempt, syscall

attempt("locked memory", lambda: syscall(149, 228, ctypes.addressof(ctypes.create_string_buffer(1 << 20)), 1 << 20))
attempt("all of it", syscall, 151, 230, 3)
