# make say TEXT="..." | make test | make coverage | make lint | make docs | make release-check | make clean. The first call makes .venv and installs into it.
PYTHON ?= python3
TORCH ?= $(shell grep '^torch==' constraints.txt)
TEXT ?= Hello from a very small model.
OUT ?= out/hello.wav
ARGS ?=
WORKERS ?= 2

BIN := .venv/bin
# As typed: a dollar sign in the text is not a make variable.
override TEXT := $(value TEXT)
export TEXT OUT

.PHONY: say test coverage lint docs release-check clean

say: .venv/.say
	@mkdir -p "$$(dirname "$$OUT")"
	@file=$$($(BIN)/llasa say -o "$$OUT" -- "$$TEXT") && echo "The sound is in $$file"

# A process each of so many workers; WORKERS=0 for a debugger.
test: .venv/.test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile $(ARGS)

# The default tests again, and which lines of the package they run: build/coverage.txt.
coverage: .venv/.test
	@mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term-missing:skip-covered $(ARGS) > build/coverage.txt; \
		status=$$?; cat build/coverage.txt; exit $$status

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# The pages as a site in build/site, without anything from elsewhere.
docs: .venv/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# Builds the wheel and lives through its life in a fresh environment.
release-check:
	PYTHON=$(PYTHON) tests/release.sh

clean:
	rm -rf build dist .coverage* .venv/.say .venv/.test .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests recipes benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

# torch first and alone: nothing else may choose its build.
.venv/.say: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install $(TORCH)
	$(BIN)/pip install -c constraints.txt -e .
	touch $@

.venv/.test: .venv/.say
	$(BIN)/pip install -c constraints.txt -e '.[dev,train,eval,languages,serve,studio]'
	touch $@
