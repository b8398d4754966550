# ends: ok
import os

os.mkfifo("pipe")
print("refused nothing: a pipe is left that nobody writes to")
