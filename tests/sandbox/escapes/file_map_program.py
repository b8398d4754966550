# ends: ok
import mmap
import os
import sys

from attack import attempt


def change():
    fd = os.open(os.path.realpath(sys.executable), os.O_RDONLY)
    return mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)


attempt("a program mapped for writing", change)
