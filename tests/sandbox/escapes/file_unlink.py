# ends: ok
import os

from attack import attempt, host

attempt("to remove", os.unlink, host["canary"])
attempt("to remove the folder", os.rmdir, host["folder"])
