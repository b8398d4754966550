# ends: ok

for name in (b"two\nlines", b"\xff\xfe", b"\x1b[2J", b" ", b"-rf", b"x" * 255, "文".encode()):
    open(name, "w").write("x")
print("refused nothing: names are left")
