#!/usr/bin/env bash
# Puts the command on PATH: a virtual environment of its own in PREFIX/lib/pyunionfs, and links to what is in it:
# the command, its man page, and what makes shells complete it. For root also what mount(8) and umount(8) look for,
# SBIN/mount.fuse.pyunionfs and so on, in /sbin because they look nowhere else. `uninstall` removes exactly these. It
# never touches the system's own Python packages.
#
#   scripts/install.sh install|uninstall [PREFIX]
#   SBIN= scripts/install.sh install        nothing for mount(8); SBIN=/another/directory: there
#   PYTHON=python3.12 scripts/install.sh install    with this interpreter; else it is /usr/bin/python3 for root, and
#                                           PATH's python3 where that is too old and for every other user
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'install: %s\n' "$*" >&2; exit 1; }

action=${1:-} prefix=${2:-/usr/local} sbin=${SBIN-/sbin}
case $prefix in /*) ;; *) die "PREFIX must be an absolute path, not '$prefix'" ;; esac
case $sbin in /* | '') ;; *) die "SBIN must be an absolute path or empty, not '$sbin'" ;; esac
home=$prefix/lib/pyunionfs

# The same paths below PREFIX, where they are links, and below its lib/pyunionfs.
links=(bin/pyunionfs
       share/man/man1/pyunionfs.1
       share/bash-completion/completions/pyunionfs
       share/zsh/site-functions/_pyunionfs
       share/fish/vendor_completions.d/pyunionfs.fish)

# For mount(8): names in SBIN, of programs in lib/pyunionfs/bin.
helpers=()
if [ "$(id -u)" = 0 ] && [ -n "$sbin" ]; then
    helpers=(mount.fuse.pyunionfs mount.pyunionfs umount.fuse.pyunionfs umount.pyunionfs)
fi

helper() { printf '%s' "$home/bin/${1%%.*}.fuse.pyunionfs"; }
helper_is_ours() { [ -L "$sbin/$1" ] && [ "$(readlink "$sbin/$1")" = "$(helper "$1")" ]; }

# The python3 that is first on root's PATH may lie where other users cannot reach it.
choose_python() {
    local system=/usr/bin/python3
    if [ -n "${PYTHON:-}" ]; then
        printf '%s' "$PYTHON"
    elif [ "$(id -u)" = 0 ] && [ -x "$system" ] &&
         "$system" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        printf '%s' "$system"
    else
        printf 'python3'
    fi
}

# The directories above a file's real path that others than their owners and groups may not enter.
closed_above() {
    local directory
    directory=$(readlink -f "$1")
    while [ "$directory" != / ]; do
        directory=$(dirname "$directory")
        if (( (8#$(stat -c %a "$directory") & 1) == 0 )); then printf '%s\n' "$directory"; fi
    done
}

ours() { [ -L "$prefix/$1" ] && [ "$(readlink "$prefix/$1")" = "$home/$1" ]; }

case $action in
install)
    for each in "${links[@]}"; do
        if { [ -e "$prefix/$each" ] || [ -L "$prefix/$each" ]; } && ! ours "$each"; then
            die "$prefix/$each exists and was not made by 'make install': remove it first"
        fi
    done
    for each in "${helpers[@]}"; do
        if { [ -e "$sbin/$each" ] || [ -L "$sbin/$each" ]; } && ! helper_is_ours "$each"; then
            die "$sbin/$each exists and was not made by 'make install' with this PREFIX: remove it first"
        fi
    done
    if [ -e "$home" ] && ! [ -f "$home/pyvenv.cfg" ]; then
        die "$home exists and is not a virtual environment: remove it first"
    fi
    mkdir -p "$prefix/bin" "$prefix/lib" || die "cannot write to $prefix: run it as root or with PREFIX=\$HOME/.local"
    if [ ${#helpers[@]} -gt 0 ]; then
        mkdir -p "$sbin" || die "cannot make $sbin: give another SBIN, or SBIN= for nothing for mount(8)"
    fi
    python=$(choose_python)
    PYTHON="$python" scripts/setup.sh
    "$python" -m venv --clear "$home"
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
    for each in "${helpers[@]}"; do ln -sfn "$(helper "$each")" "$sbin/$each"; done
    "$prefix/bin/pyunionfs" --version
    case ":$PATH:" in *":$prefix/bin:"*) ;; *) printf 'install: note: %s is not on PATH\n' "$prefix/bin" ;; esac
    if [ "$(id -u)" = 0 ]; then
        closed=$(closed_above "$home/bin/python" | paste -sd' ')
        if [ -n "$closed" ]; then
            printf 'install: note: only root can run it: others cannot enter %s, and its interpreter is %s: ' \
                "$closed" "$(readlink -f "$home/bin/python")"
            printf 'install it again with PYTHON=/usr/bin/python3 or another that all can reach\n'
        fi
    else
        printf 'install: note: mount(8) and /etc/fstab do not know it: only root can put into /sbin what they need\n'
    fi
    ;;
uninstall)
    for each in "${links[@]}"; do
        if ours "$each"; then rm "$prefix/$each"; fi
    done
    for each in "${helpers[@]}"; do
        if helper_is_ours "$each"; then rm "$sbin/$each"; fi
    done
    if [ -f "$home/pyvenv.cfg" ]; then rm -rf "$home"; fi
    ;;
*)
    die "usage: scripts/install.sh install|uninstall [PREFIX]"
    ;;
esac
