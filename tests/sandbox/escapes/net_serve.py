# ends: ok
import socket

from attack import attempt

attempt("to listen", lambda: socket.create_server(("0.0.0.0", 0)))
