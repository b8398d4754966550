# ends: killed
import ctypes

print("refused nothing: a fault", flush=True)
ctypes.string_at(0)
