# ends: ok
import gc

from attack import expect, host

expect(
    "what is left in memory",
    not any(
        host["secret"] in value for value in gc.get_objects() if type(value) is str and value is not host["secret"]
    ),
)
