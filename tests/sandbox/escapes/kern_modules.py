# ends: ok
import ctypes

from attack import attempt, syscall

attempt("init_module", syscall, 175, 105, None, 0, ctypes.c_char_p(b""))
attempt("delete_module", syscall, 176, 106, ctypes.c_char_p(b"nonesuch"), 0)
attempt("kexec_load", syscall, 246, 104, 0, 0, None, 0)
attempt("reboot with a wrong number", syscall, 169, 142, 0, 0, 0, None)
