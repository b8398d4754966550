# ends: ok
from attack import attempt, syscall

attempt("userfaultfd", syscall, 323, 282, 0)
