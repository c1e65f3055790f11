# `make quickstart` runs the method end to end, `make real` on a real model in English, `make test` runs the tests. Each
# sets up .venv first.
PYTHON ?= python3
INSTALLED := .venv/installed

quickstart: $(INSTALLED)
	@PATH="$(CURDIR)/.venv/bin:$$PATH" bash recipes/quickstart/run.sh

real: $(INSTALLED)
	@PATH="$(CURDIR)/.venv/bin:$$PATH" bash recipes/smollm2/run.sh

test: $(INSTALLED)
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

install: $(INSTALLED)

# Make cannot name a target whose path holds a space, so every path here is relative to this folder.
$(INSTALLED): requirements/cpu.txt pyproject.toml
	@PYTHON="$(PYTHON)" bash requirements/install.sh

.PHONY: quickstart real test install
