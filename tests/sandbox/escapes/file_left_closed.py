# ends: ok
import os

os.makedirs("shut/inner")
open("shut/inner/file", "w").write("x")
for name in ("shut/inner/file", "shut/inner", "shut"):
    try:
        os.chmod(name, 0)
    except PermissionError:
        pass
print("refused nothing: what nobody may enter is left")
