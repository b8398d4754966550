# ends: ok
import os

from attack import attempt, host

attempt("to overwrite", open, host["canary"], "r+")
attempt("to empty", os.truncate, host["canary"], 0)
