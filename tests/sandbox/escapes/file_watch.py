# ends: ok
from attack import attempt, syscall

attempt("inotify", syscall, 294, 26, 0)
attempt("fanotify", syscall, 300, 262, 0, 0)
