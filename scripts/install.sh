#!/usr/bin/env bash
# Puts the command on PATH: a virtual environment of its own in PREFIX/lib/pyunionfs and a link
# PREFIX/bin/pyunionfs; `uninstall` removes exactly these two. It never touches the system's own Python packages.
#
#   scripts/install.sh install|uninstall [PREFIX]
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'install: %s\n' "$*" >&2; exit 1; }

action=${1:-} prefix=${2:-/usr/local}
case $prefix in /*) ;; *) die "PREFIX must be an absolute path, not '$prefix'" ;; esac
home=$prefix/lib/pyunionfs
link=$prefix/bin/pyunionfs

ours() { [ -L "$link" ] && [ "$(readlink "$link")" = "$home/bin/pyunionfs" ]; }

case $action in
install)
    if { [ -e "$link" ] || [ -L "$link" ]; } && ! ours; then
        die "$link exists and was not made by 'make install': remove it first"
    fi
    if [ -e "$home" ] && ! [ -f "$home/pyvenv.cfg" ]; then
        die "$home exists and is not a virtual environment: remove it first"
    fi
    mkdir -p "$prefix/bin" "$prefix/lib" || die "cannot write to $prefix: run it as root or with PREFIX=\$HOME/.local"
    PYTHON="${PYTHON:-python3}" scripts/setup.sh
    "${PYTHON:-python3}" -m venv --clear "$home"
    "$home/bin/python" -m pip install --quiet --disable-pip-version-check .
    ln -sfn "$home/bin/pyunionfs" "$link"
    "$link" --version
    case ":$PATH:" in *":$prefix/bin:"*) ;; *) printf 'install: note: %s is not on PATH\n' "$prefix/bin" ;; esac
    ;;
uninstall)
    if [ -L "$link" ] && ours; then rm "$link"; fi
    if [ -f "$home/pyvenv.cfg" ]; then rm -rf "$home"; fi
    ;;
*)
    die "usage: scripts/install.sh install|uninstall [PREFIX]"
    ;;
esac
