# ends: ok
import ctypes

from attack import attempt, syscall

handle = ctypes.create_string_buffer(256)
handle[0:4] = (128).to_bytes(4, "little")
mount = ctypes.c_int()
attempt("the handle of a file", syscall, 303, 264, -100, ctypes.c_char_p(b"/usr"), handle, ctypes.byref(mount), 0)
attempt("a file by its handle", syscall, 304, 265, 0, handle, 0)
