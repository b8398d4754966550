# ends: ok
import os

open("tool", "w").write("#!/bin/sh\nid")
try:
    os.chmod("tool", 0o6777)
except PermissionError:
    pass
print("refused nothing: a file with the bit set is left")
