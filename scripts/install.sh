#!/usr/bin/env bash
# Puts the command on PATH: a virtual environment of its own in PREFIX/lib/pyunionfs, and links to what is in it:
# the command, its man page, and what makes shells complete it. `uninstall` removes exactly these. It never touches
# the system's own Python packages.
#
#   scripts/install.sh install|uninstall [PREFIX]
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'install: %s\n' "$*" >&2; exit 1; }

action=${1:-} prefix=${2:-/usr/local}
case $prefix in /*) ;; *) die "PREFIX must be an absolute path, not '$prefix'" ;; esac
home=$prefix/lib/pyunionfs

# The same paths below PREFIX, where they are links, and below its lib/pyunionfs.
links=(bin/pyunionfs
       share/man/man1/pyunionfs.1
       share/bash-completion/completions/pyunionfs
       share/zsh/site-functions/_pyunionfs
       share/fish/vendor_completions.d/pyunionfs.fish)

ours() { [ -L "$prefix/$1" ] && [ "$(readlink "$prefix/$1")" = "$home/$1" ]; }

case $action in
install)
    for each in "${links[@]}"; do
        if { [ -e "$prefix/$each" ] || [ -L "$prefix/$each" ]; } && ! ours "$each"; then
            die "$prefix/$each exists and was not made by 'make install': remove it first"
        fi
    done
    if [ -e "$home" ] && ! [ -f "$home/pyvenv.cfg" ]; then
        die "$home exists and is not a virtual environment: remove it first"
    fi
    mkdir -p "$prefix/bin" "$prefix/lib" || die "cannot write to $prefix: run it as root or with PREFIX=\$HOME/.local"
    PYTHON="${PYTHON:-python3}" scripts/setup.sh
    "${PYTHON:-python3}" -m venv --clear "$home"
    "$home/bin/python" -m pip install --quiet --disable-pip-version-check .
    for each in "${links[@]}"; do
        mkdir -p "$home/${each%/*}" "$prefix/${each%/*}"
        case $each in
        bin/*) ;;
        share/man/*) "$home/bin/python" -m unionfs.cli.manual > "$home/$each" ;;
        share/bash*) "$home/bin/pyunionfs" completion bash > "$home/$each" ;;
        share/zsh/*) "$home/bin/pyunionfs" completion zsh > "$home/$each" ;;
        share/fish*) "$home/bin/pyunionfs" completion fish > "$home/$each" ;;
        esac
        ln -sfn "$home/$each" "$prefix/$each"
    done
    "$prefix/bin/pyunionfs" --version
    case ":$PATH:" in *":$prefix/bin:"*) ;; *) printf 'install: note: %s is not on PATH\n' "$prefix/bin" ;; esac
    ;;
uninstall)
    for each in "${links[@]}"; do
        if ours "$each"; then rm "$prefix/$each"; fi
    done
    if [ -f "$home/pyvenv.cfg" ]; then rm -rf "$home"; fi
    ;;
*)
    die "usage: scripts/install.sh install|uninstall [PREFIX]"
    ;;
esac
