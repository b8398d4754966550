# ends: ok
import ctypes

from attack import attempt, others, syscall

buffer = ctypes.create_string_buffer(8)
vector = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 8)
for pid in others():
    attempt("process_vm_readv", syscall, 310, 270, pid, vector, 1, vector, 1, 0)
    attempt("process_vm_writev", syscall, 311, 271, pid, vector, 1, vector, 1, 0)
