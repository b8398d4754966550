# ends: timeout

print("refused, if it ends", flush=True)
while True:
    pass
