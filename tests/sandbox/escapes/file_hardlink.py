# ends: ok
import os

from attack import attempt, host

attempt("a hard link", os.link, host["canary"], "hard")
