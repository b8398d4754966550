# ends: ok
from attack import attempt, host, read

attempt("by dots", read, "../" * 40 + host["canary"])
attempt("by doubled slashes", read, "/" + host["canary"])
