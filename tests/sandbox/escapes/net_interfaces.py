# ends: ok
import socket

from attack import expect

try:
    names = [name for _, name in socket.if_nameindex()]
except OSError:
    names = []
expect("the host's interfaces", set(names) <= {"lo"})
