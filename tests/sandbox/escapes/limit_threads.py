# ends: processes
import threading
import time

print("refused, if it ends", flush=True)
threads = [threading.Thread(target=time.sleep, args=(2,), daemon=True) for _ in range(200)]
for thread in threads:
    thread.start()
time.sleep(2)
