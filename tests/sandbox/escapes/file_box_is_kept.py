# ends: ok
import os

from attack import attempt

for name in ("..", "../work", "../tmp", "../main.py"):
    attempt(f"to rename {name}", os.rename, name, name + "x")
attempt("to write beside", open, "../beside", "w")
attempt("to write the program", open, "../main.py", "w")
