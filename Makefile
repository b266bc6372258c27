# make demo   compare SGD, quasi-Newton and ALTO on the digits data and write a report
# make test   format, lint, types, tests
# make peers  install the packages that tests and benchmarks compare with, and those of the extras topology and vtk; without them those
#             tests are skipped
# make bench  time ours beside them and write the tables of docs/performance.md (some 40 minutes, best on an idle machine)
# Both set up what they need: a virtual environment in .venv, from the pins in constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test peers bench wheel clean

demo: .venv/.ready
	$(BIN)/landscape compare digits-mlp --out runs/digits-mlp

test: .venv/.ready
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --dist=loadfile

peers: .venv/.ready
	$(PIP) install --quiet --constraint constraints.txt --editable '.[bench,topology,vtk]'

# Without their requirements: curvlinops' bring torchvision and another torch, topopy's and nglpy's numpy below 2, and need neither.
bench: peers
	$(PIP) install --quiet --constraint constraints.txt gudhi pandas coloraide drawsvg tqdm einops einconv linear_operator
	$(PIP) install --quiet --no-deps landscaper==1.3.1 topopy==1.0.4 nglpy==1.1.7 curvlinops-for-pytorch==3.0.1
	$(BIN)/python -m benchmarks.optimizers
	$(BIN)/python -m benchmarks.alignment --write docs/performance.md
	$(BIN)/python -m benchmarks.paths --write docs/paths.md
	$(BIN)/python -m benchmarks.probes --write docs/performance.md
	$(BIN)/python -m benchmarks.curvature --write docs/performance.md
	$(BIN)/python -m benchmarks.embedding --write docs/performance.md

wheel: .venv/.ready
	rm -rf dist
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python -m scripts.wheel_contents dist

# The marker is written last, so an installation that was interrupted is taken up again.
.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "torch-landscape needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --upgrade --constraint constraints.txt pip
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

clean:
	rm -rf .venv dist build
