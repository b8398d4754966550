# ends: ok
import ctypes

from attack import attempt, host, syscall

for pid in (host["victim"], host["runner"]):
    attempt("tgkill", syscall, 234, 131, pid, pid, 0)
    attempt("tkill", syscall, 200, 130, pid, 0)
    attempt("rt_sigqueueinfo", syscall, 129, 138, pid, 0, ctypes.create_string_buffer(128))
