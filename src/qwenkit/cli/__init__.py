"""The command line: parse, call, print. Exit codes: 0 done, 1 stopped, 2 the user's mistake, 130 interrupted.

`app.py` holds what all commands share, `runs.py` the commands about runs, `models.py` those about models, `serve.py`
the one that serves them, `bench.py` the one that measures a machine or a server (`load.py`, `load_settings.py`),
`doctor.py` the one that describes the machine, `tokens.py` those about tokenizers, `corpus.py` those about corpora,
`hub.py` the command that publishes a model, `inspect.py` and `inspect_data.py` those that show data as a model reads
it, `verbs.py` the verb of every stage, `old_names.py` names that are accepted for one more release, `entry.py` turns
errors into messages and exit codes. Heavy modules are imported inside the commands, so that `--help` answers at once.
"""

from qwenkit.cli.entry import main

__all__ = ["main"]
