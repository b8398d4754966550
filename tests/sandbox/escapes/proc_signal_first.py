# ends: ok
import os

from attack import attempt

attempt("signal 0 to the first process", os.kill, 1, 0)
