# ends: ok
import socket

from attack import attempt, host

for address in (("127.0.0.1", host["port"]), ("1.1.1.1", 53)):
    attempt("TCP", socket.create_connection, address, 2)
