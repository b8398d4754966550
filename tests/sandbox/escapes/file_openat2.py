# ends: ok
import ctypes
import os

from attack import attempt, host, read, syscall

how = (ctypes.c_uint64 * 3)(0, 0, 0)
attempt("openat2", syscall, 437, 437, -100, ctypes.c_char_p(host["canary"].encode()), how, 24)
attempt("O_PATH and on", lambda: read(f"/proc/self/fd/{os.open(host['canary'], os.O_PATH)}"))
