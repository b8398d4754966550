# ends: ok
import socket

from attack import attempt

attempt("IPv6", socket.socket, socket.AF_INET6, socket.SOCK_STREAM)
