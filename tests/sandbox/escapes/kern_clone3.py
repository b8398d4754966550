# ends: ok
import ctypes

from attack import attempt, syscall

arguments = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17)
attempt("clone3", syscall, 435, 435, arguments, 88)
