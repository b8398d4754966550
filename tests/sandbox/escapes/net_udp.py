# ends: ok
import socket

from attack import attempt, host

attempt("UDP", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", host["port"])))
