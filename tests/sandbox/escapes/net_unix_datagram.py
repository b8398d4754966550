# ends: ok
import socket

from attack import attempt, host


def send():
    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"x", host["datagram"])


attempt("a datagram from a pair of sockets", send)


def send_stream():
    socket.socketpair()[0].sendto(b"x", host["datagram"])


attempt("a stream with an address", send_stream)
