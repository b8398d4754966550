# ends: ok
import os

from attack import attempt, syscall

attempt("process_madvise", syscall, 440, 440, 0, None, 0, 0, 0)
attempt("migrate_pages", syscall, 256, 238, os.getppid(), 8, None, None)
attempt("move_pages", syscall, 279, 239, os.getppid(), 0, None, None, None, 0)
