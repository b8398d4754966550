# ends: ok
import os
import stat

from attack import attempt


def disk():
    os.mknod("disk", stat.S_IFBLK | 0o600, os.makedev(254, 0))
    return os.open("disk", os.O_RDONLY)


attempt("a disk", disk)
attempt("memory", os.mknod, "mem", stat.S_IFCHR | 0o600, os.makedev(1, 1))
