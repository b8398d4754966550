# ends: ok
from attack import attempt, syscall

attempt("no random addresses", syscall, 135, 92, 0x40000)
attempt("iopl", syscall, 172, 9999, 3)
attempt("ioperm", syscall, 173, 9999, 0, 8, 1)
attempt("modify_ldt", syscall, 154, 9999, 0, None, 0)
