#!/usr/bin/env bash
# Builds dist/*.tar.gz and dist/*.whl, has twine check them, and installs the wheel into an empty environment, where
# the command must say its version.
set -euo pipefail
cd "$(dirname "$0")/.."

rm -rf dist
.venv/bin/python -m build --outdir dist . >/dev/null
.venv/bin/python -m twine check --strict dist/*

empty=$(mktemp -d)
trap 'rm -rf "$empty"' EXIT
.venv/bin/python -m venv "$empty"
"$empty/bin/pip" install --quiet --disable-pip-version-check dist/*.whl
(cd / && "$empty/bin/pyunionfs" --version)
ls dist
