# ends: ok
import os

from attack import attempt, host, read

os.symlink(host["canary"], "link")
attempt("by a symbolic link", read, "link")
os.symlink("/", "root")
attempt("by a link to the root", read, "root" + host["canary"])
