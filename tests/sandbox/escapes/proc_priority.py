# ends: ok
import os

from attack import attempt, host

attempt("priority of a user's all", os.setpriority, os.PRIO_USER, os.getuid(), 19)
attempt("processors of another", os.sched_setaffinity, host["victim"], {0})
attempt("real time", os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))
attempt("a higher priority", os.nice, -5)
