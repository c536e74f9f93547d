# The few things one does with a checkout. `make help` lists them.
# Every target that needs the virtual environment makes it first (scripts/setup.sh, once); nothing here may
# rely on what somebody installed by hand.

PYTHON ?=
PREFIX ?= /usr/local
HOURS  ?= 1
VENV   := .venv
READY  := $(VENV)/.ready
BIN    := $(VENV)/bin
# Tests run side by side, in one process more than there are processors, because they wait for daemons and
# disks, and in four at most; -n 0 in ARGS runs all in one. A process that has done its share takes over some of
# another's, so that none waits for a long file.
JOBS   := $(shell n=$$(nproc); echo $$((n < 4 ? n + 1 : 4)))
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# Python starts thousands of times here, and would compile all of its modules each time where this is set.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo check test test-all lint fuzz malformed crash crash-images faults soak memory profile bench bench-images bench-mounts man options dist install uninstall clean

help:
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

# The stamp is newer than what decides about the environment, so a changed dependency sets it up again.
$(READY): pyproject.toml scripts/setup.sh
	@PYTHON="$(PYTHON)" scripts/setup.sh

setup: $(READY) ## install system packages and the virtual environment .venv (root, Debian or Ubuntu)

demo: $(READY) ## build three layers and a root tree, mount them and show what a union does
	@scripts/demo.sh

# Each test is in one of three tiers (tests/tiers.py).
check: lint ## lint, types, and the tests that mount nothing: two minutes (ARGS="-k name" for a part)
	@scripts/test-programs.sh check
	$(PYTEST) -m check $(ARGS)

test: lint ## the same and the tests that mount: eight minutes
	@scripts/test-programs.sh check mounts
	$(PYTEST) -m "check or mounts" $(ARGS)

test-all: $(READY) ## what is left: engines, Debian, systemd, long and random runs: nine minutes
	@scripts/test-programs.sh rest
	$(PYTEST) -m rest $(ARGS)

lint: $(READY) ## ruff (rules and layout) and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=. $(BIN)/mypy --config-file tests/api/sample/pyproject.toml --no-namespace-packages tests/api/sample

fuzz: $(READY) ## long differential run against kernel overlayfs (ARGS="--seeds 0-999")
	$(BIN)/python scripts/fuzz.py $(ARGS)

malformed: $(READY) ## a million requests and many layers at random, most spoiled (ARGS="-k handles")
	PYUNIONFS_MALFORMED=250000 $(BIN)/python -m pytest tests/transport/direct/test_fuzz.py tests/image/test_spoiled.py tests/image/test_spoiled_archives.py $(ARGS)

crash: $(READY) ## SIGKILL the daemon at random moments and look for loss (ARGS="--kills 500")
	$(BIN)/python scripts/crash.py $(ARGS)

crash-images: $(READY) ## SIGKILL commands that change the store of images and look at it (ARGS="--kills 200")
	$(BIN)/python scripts/crash_images.py $(ARGS)

faults: $(READY) ## each system call of each operation and command fails, with each errno (ARGS="-k rename"; root)
	PYUNIONFS_FAULTS=all $(PYTEST) tests/faults $(ARGS)

soak: $(READY) ## a mixed load for hours, and whether anything grows: HOURS=8 (ARGS="--shared"; root)
	$(BIN)/python -m testing.soak --hours $(HOURS) $(ARGS)

memory: $(READY) ## the daemon's memory for each inode that the kernel knows
	$(BIN)/python scripts/memory.py $(ARGS)

profile: $(READY) ## microseconds and system calls of each operation of the union, without a mount (root)
	$(BIN)/python -m testing.core_profile $(ARGS)

bench: $(VENV)/.bench ## time the same work on all union filesystems (ARGS="--quick"; root, 20 minutes)
	$(BIN)/python -m testing.bench $(ARGS)

bench-images: $(READY) ## time pulling, unpacking, committing and running images against podman, umoci, buildah (root)
	@scripts/test-programs.sh rest
	$(BIN)/python -m testing.bench.images $(ARGS)

bench-mounts: $(READY) ## time mounts, and measure the memory of a hundred, beside fuse-overlayfs (root)
	@$(BIN)/python -m testing.bench.many_mounts $(ARGS)

$(VENV)/.bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat -e '.[bench]'
	@touch $@

man: $(READY) ## make the man page build/pyunionfs.1 (read it with: man -l build/pyunionfs.1)
	@mkdir -p build
	$(BIN)/python -m unionfs.cli.manual > build/pyunionfs.1

options: $(READY) ## write the table of mount options into docs/options.md and the types of unionfs.Options
	$(BIN)/python -m testing.option_files

dist: $(READY) ## build and check the source archive and the wheel in dist/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dist]'
	scripts/dist.sh

install: ## install the command, its man page and completion below PREFIX (/usr/local)
	@PYTHON="$(PYTHON)" scripts/install.sh install "$(PREFIX)"

uninstall: ## remove what `make install` made
	@scripts/install.sh uninstall "$(PREFIX)"

clean: ## remove the virtual environment and everything that was built
	rm -rf $(VENV) build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find unionfs tests testing scripts -name __pycache__ -type d -prune -exec rm -rf {} +
