# ends: ok
import socket

from attack import attempt, host


def connect(name):
    socket.socket(socket.AF_UNIX).connect(name)


attempt("a socket in the file system", connect, host["socket"])
attempt("an abstract socket", connect, "\0" + host["abstract"])
attempt("to serve abstract", lambda: socket.socket(socket.AF_UNIX).bind("\0mine"))
