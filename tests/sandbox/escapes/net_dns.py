# ends: ok
import socket

from attack import attempt

attempt("a name", socket.getaddrinfo, "example.org", 80)
