# ends: ok
import socket

from attack import attempt, host

attempt("a pair that connects elsewhere", lambda: socket.socketpair()[0].connect(host["socket"]))
attempt(
    "a sequence that connects elsewhere",
    lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)[0].connect(host["socket"]),
)
