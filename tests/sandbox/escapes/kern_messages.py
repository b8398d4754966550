# ends: ok
import ctypes

from attack import attempt, syscall

attempt("kernel messages", syscall, 103, 116, 3, ctypes.create_string_buffer(4096), 4096)
attempt("their size", syscall, 103, 116, 10, None, 0)
