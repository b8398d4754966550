# ends: ok
import ctypes
import time

from attack import attempt, syscall

attempt("the clock", time.clock_settime, time.CLOCK_REALTIME, time.time())
attempt("adjtimex", syscall, 159, 171, ctypes.create_string_buffer(256))
