# ends: ok
import ctypes
import os

from attack import attempt, syscall

text = ctypes.c_char_p
attempt("mount", syscall, 165, 40, text(b"none"), text(b"."), text(b"tmpfs"), 0, None)
attempt("bind", syscall, 165, 40, text(b"/"), text(b"."), None, 4096, None)
attempt("umount", syscall, 166, 39, text(b"/proc"), 0)
attempt("remount", syscall, 165, 40, None, text(b"/"), None, 32, None)
attempt("pivot_root", syscall, 155, 41, text(b"."), text(b"."))
attempt("chroot", os.chroot, ".")
attempt("fsopen", syscall, 430, 430, text(b"tmpfs"), 0)
attempt("open_tree", syscall, 428, 428, -100, text(b"/"), 1)
attempt("move_mount", syscall, 429, 429, -100, text(b"/"), -100, text(b"."), 0)
attempt("mount_setattr", syscall, 442, 442, -100, text(b"/"), 0, None, 0)
