# Two commands train and check everything: `make nano` and `make test`. No network is needed beyond the package index.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install nano nano-quick test lint soak clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

# The whole nano family: about 18 minutes on 2 idle cores.
nano: install
	$(BIN)/qwenkit run nano

# The same graph at a size that proves nothing but that the wiring holds: under 4 minutes.
nano-quick: install
	$(BIN)/qwenkit run nano-quick

lint: install
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/lint-imports
	$(BIN)/basedpyright --level error
	$(BIN)/basedpyright --level error --project benchmarks  # calls of the package that are out of date

# The quick tier, a process a core, with the seconds of each package; `make test ROOM=chat` runs one package.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile \
	  --durations=10 --budgets $(if $(ROOM),tests/$(ROOM),)

# The long forms: run once for each larger change; results go to docs/LOG.md.
soak: install
	$(BIN)/python -m pytest -m soak --timeout 14400

clean:
	rm -rf .venv runs
