# ends: ok
import os
import sys
import sysconfig

from attack import attempt

for folder in {sys.prefix, sys.base_prefix, sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]}:
    attempt(f"in {folder}", open, f"{folder}/planted.pth", "w")
attempt("a module", open, os.__file__, "r+")
