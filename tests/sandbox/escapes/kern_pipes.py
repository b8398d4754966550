# ends: ok
from attack import attempt, syscall

attempt("vmsplice", syscall, 278, 75, 1, None, 0, 0)
attempt("tee", syscall, 276, 77, 0, 1, 1, 0)
attempt("splice", syscall, 275, 76, 0, None, 1, None, 1, 0)
