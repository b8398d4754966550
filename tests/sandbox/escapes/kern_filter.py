# ends: ok
import ctypes

from attack import attempt, expect, read, syscall

attempt("another filter", syscall, 317, 277, 0, 0, None)
attempt("a listener", syscall, 317, 277, 1, 8, ctypes.create_string_buffer(16))
expect("new rights", "NoNewPrivs:\t1" in read("/proc/self/status"))
expect("a filter", "Seccomp:\t2" in read("/proc/self/status"))
