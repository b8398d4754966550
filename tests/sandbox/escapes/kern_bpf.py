# ends: ok
import ctypes

from attack import attempt, syscall

attempt("bpf", syscall, 321, 280, 0, ctypes.create_string_buffer(128), 128)
attempt("perf", syscall, 298, 241, ctypes.create_string_buffer(128), 0, -1, -1, 0)
