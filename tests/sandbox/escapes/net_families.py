# ends: ok
import socket

from attack import attempt

for family in range(1, 46):
    for kind in (1, 2, 3, 5):
        attempt(f"family {family} type {kind}", socket.socket, family, kind)
