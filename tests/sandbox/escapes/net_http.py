# ends: ok
import urllib.request

from attack import attempt, host

attempt("HTTP", urllib.request.urlopen, f"http://127.0.0.1:{host['port']}/", None, 2)
