# Needs GNU Make 3.81 or newer, bash, and Python 3.11, 3.12 or 3.13; nothing else.
SHELL := bash
VENV := .venv
WORKDIR := runs/quickstart
PY := $(VENV)/bin/python
LOG := $(VENV).log

unexport PYTHON # the interpreter that builds .venv, not the one that recipes run
unexport PYTHONDONTWRITEBYTECODE # Python compiles what is imported, once

# The first of these that runs and is supported is used. .venv's own comes first, so that
# .venv is rebuilt for another interpreter only if PYTHON=... names one.
CANDIDATES = $(if $(PYTHON),"$(PYTHON)",$(PY) python3 python3.12 python3.13 python3.11)
SUPPORTED := import sys; assert (3, 11) <= sys.version_info < (3, 14); \
  print(sys._base_executable)
BASE = $(eval BASE := $$(shell for python in $(CANDIDATES); do \
  base=$$$$("$$$$python" -Ic '$(SUPPORTED)' 2>/dev/null) && echo "$$$$base" && break; \
  done))$(BASE)
VERSIONS = $(shell for python in $(CANDIDATES); do \
  version=$$("$$python" -c 'import platform; print(platform.python_version())' \
    2>/dev/null) && echo "$$python is $$version;"; done)
NEEDED = simclr_jax needs Python 3.11, 3.12 or 3.13 \
  ($(if $(VERSIONS),$(VERSIONS),none found;) name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12)

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-long test-buckets test-zoo lint docs tables lock clean env env-zoo

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | \
	  while IFS='|' read -r name what; do printf '%-17s %s\n' "$$name" "$$what"; done
	@echo 'PYTHON=python3.12 selects the interpreter; .venv is rebuilt when it or the lock changes.'

# On a CPU every step allocates its buffers again: these settings let glibc keep freed
# memory and use huge pages. docs/laptop.md has what they were measured to be worth.
quickstart: export GLIBC_TUNABLES := glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=99999999999
quickstart: env ## train SimCLR on the embedded images and evaluate it: runs/quickstart
	@$(VENV)/bin/simclr-jax pretrain --config quickstart --workdir $(WORKDIR)
	@$(VENV)/bin/simclr-jax evaluate --workdir $(WORKDIR)

test: env ## run the tests
	@$(PY) -m pytest -n 2 --dist worksteal

test-long: env ## run the tests that take minutes each
	@$(PY) -m pytest -m "long and not zoo and not buckets"

test-buckets: env ## run whole commands on an emulated bucket; needs Linux and root
	@$(PY) -m pytest -m buckets -n 2 --dist worksteal tests/buckets

test-zoo: env-zoo ## compare the zoo with PyTorch, timm, transformers and ONNX Runtime
	@.venv-zoo/bin/python -m pytest -m "zoo and not long" -n 2 --dist worksteal tests/zoo

lint: env ## check style, format and types
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m pyrefly check

docs: env ## build the pages of docs/ as HTML: docs/_build/html
	@$(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html

tables: env ## write the tables of README and docs/ from their data
	@$(PY) docs/tables.py

lock: ## generate requirements.lock from requirements.txt; needs uv
	@$(if $(shell uv --version >/dev/null 2>&1 && echo yes),,$(error make lock needs uv: pip install uv))\
	uv pip compile requirements.txt --output-file requirements.lock --quiet --universal \
	  --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command 'make lock'

clean: ## remove .venv and the caches, but not runs/
	rm -rf $(VENV) .venv-zoo .venv*.log .pytest_cache .ruff_cache .hypothesis \
	  build *.egg-info
	find simclr_jax configs tests -name __pycache__ -prune -exec rm -rf {} +

# The environment is up to date if it has a copy of the lock file (written last, so that
# an interrupted build is not mistaken for a complete one) and the selected interpreter;
# the project in it, if it was installed from this folder with this pyproject.toml. What
# pip and uv print goes to $(LOG).
IDENTITY := import sys; print(sys.version)
env:
	@$(if $(BASE),,$(error $(NEEDED)))\
	build_with_uv() { \
	  echo "Building $(VENV) with uv (about 3 GB); details in $(LOG)."; rm -rf $(VENV); \
	  export UV_PYTHON_DOWNLOADS=never; \
	  { uv venv --seed --python "$(BASE)" $(VENV) && \
	    uv pip sync --require-hashes --python $(PY) requirements.lock; \
	  } >>$(LOG) 2>&1; \
	}; \
	build_with_pip() { \
	  echo "Building $(VENV) with pip (about 3 GB, some minutes; uv is faster);" \
	    "details in $(LOG)."; \
	  rm -rf $(VENV); \
	  { "$(BASE)" -m venv $(VENV) && $(PY) -m pip install --disable-pip-version-check \
	    --require-hashes -r requirements.lock; } >>$(LOG) 2>&1; \
	}; \
	build() { \
	  : >$(LOG); \
	  if uv --version >/dev/null 2>&1; then build_with_uv || build_with_pip; \
	  else build_with_pip; fi && cp requirements.lock $(VENV)/requirements.lock; \
	}; \
	project() { pwd; cat pyproject.toml; }; \
	install_project() { \
	  $(PY) -m pip install --disable-pip-version-check --no-deps --no-index \
	    --no-build-isolation --editable . >>$(LOG) 2>&1 && \
	    project >$(VENV)/project; \
	}; \
	if ! cmp -s requirements.lock $(VENV)/requirements.lock || \
	  [ "$$($(PY) -Ic '$(IDENTITY)' 2>/dev/null)" != "$$("$(BASE)" -Ic '$(IDENTITY)')" ]; \
	then build; fi && \
	{ project | cmp -s - $(VENV)/project || install_project; } || \
	{ echo "$(VENV) could not be built. The last lines of $(LOG):"; tail -n 15 $(LOG); \
	  exit 1; } >&2

# Triton's LLVM and TensorFlow's conflict in one process; PyTorch on a CPU does not need
# Triton.
env-zoo:
	@$(MAKE) --no-print-directory env VENV=.venv-zoo
	@cmp -s tests/zoo/requirements.txt .venv-zoo/zoo.txt || { \
	  .venv-zoo/bin/python -m pip install --quiet --disable-pip-version-check \
	    -c requirements.txt -r tests/zoo/requirements.txt && \
	  .venv-zoo/bin/python -m pip uninstall --quiet --yes triton && \
	  cp tests/zoo/requirements.txt .venv-zoo/zoo.txt; \
	}
