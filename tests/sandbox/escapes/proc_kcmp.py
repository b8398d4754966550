# ends: ok
import os

from attack import attempt, syscall

attempt("kcmp", syscall, 312, 272, os.getpid(), os.getppid(), 0, 0, 0)
