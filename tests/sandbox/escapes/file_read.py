# ends: ok
import os

from attack import attempt, host, read

attempt("a file of the host", read, host["canary"])
attempt("its folder", lambda: [name for name in os.listdir(host["folder"])][0])
