# ends: killed
import ctypes
import mmap
import os

print("refused, if this is the last line", flush=True)
if os.uname().machine == "x86_64":
    code = bytes([0x53, 0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0x5B, 0xC3])  # push rbx; mov eax, getpid; int 0x80; pop rbx; ret
    area = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    area.write(code)
    call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(area)))
    print("ESCAPED", call())
os.kill(os.getpid(), 9)
