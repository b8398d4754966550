# ends: ok
import socket

from attack import attempt

attempt("netlink", socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 0)
