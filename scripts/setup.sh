#!/usr/bin/env bash
# Makes a checkout usable: the system packages that building and testing need, and the virtual environment .venv.
#
# Quick and silent when all is there; run it as often as you like. It installs packages only when one is missing,
# never removes or upgrades any, and changes nothing outside apt and .venv.
#
#   PYTHON=python3.12 scripts/setup.sh     uses another interpreter (3.11 or later)
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
say() { printf 'setup: %s\n' "$*"; }

[ "$(uname -s)" = Linux ] || die "this is a Linux filesystem; $(uname -s) has no FUSE of that kind"

python=$(command -v "${PYTHON:-python3}") || die "no ${PYTHON:-python3} on PATH: install Python 3.11 or later"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$python is $("$python" --version 2>&1): Python 3.11 or later is needed; name one with PYTHON=/path/to/python3"

# ---- system packages -----------------------------------------------------------------------------------------
# to build pyfuse3 and to mount; then what the demo and the tests cannot do without (test-programs.sh has the rest)
packages=(gcc libc6-dev pkg-config libfuse3-dev fuse3 ca-certificates
          git make mount util-linux passwd procps busybox-static
          attr acl libcap2-bin debootstrap xfsprogs btrfs-progs e2fsprogs rsync sqlite3 tar xz-utils)

# A distribution's own python3 comes in pieces: venv (with pip) and the headers are packages of their own. An
# interpreter from elsewhere (pyenv, a container image's /usr/local) brings both.
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$("$python" -c 'import sys; print(sys.base_prefix)')" = /usr ]; then
    packages+=("python$version-venv" "python$version-dev")
fi

missing=()
if command -v dpkg-query >/dev/null; then
    installed=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | sed -n 's/^.i[[:space:]]*//p')
    for package in "${packages[@]}"; do
        grep -qxF -- "$package" <<<"$installed" || missing+=("$package")
    done
else
    die "no dpkg here: this script knows Debian and Ubuntu only. Install by hand what these packages hold" \
        "(${packages[*]}), then: $python -m venv .venv && .venv/bin/pip install -e '.[test]' && touch .venv/.ready"
fi

if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || die "no apt-get to install: ${missing[*]}"
    [ "$(id -u)" = 0 ] || die "these packages are missing and only root can install them: ${missing[*]}" \
        "— run it as root once, or: sudo apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q update
    apt-get -q install -y --no-install-recommends "${missing[@]}"
fi

# fusermount3 cannot unmount without /etc/mtab, which a system that was never booted (a bare chroot) does not have.
if ! [ -e /etc/mtab ] && [ "$(id -u)" = 0 ]; then
    say "linking /etc/mtab to /proc/self/mounts"
    ln -s ../proc/self/mounts /etc/mtab
fi

# ---- virtual environment -------------------------------------------------------------------------------------
# Made anew when its interpreter is gone or another version than the one asked for.
if ! [ -x .venv/bin/python ] ||
   [ "$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" != "$version" ] ||
   ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    say "making .venv with $python ($version)"
    rm -rf .venv
    "$python" -m venv .venv || die "$python could not make a virtual environment"
fi
if [ .venv/.ready -nt pyproject.toml ] && .venv/bin/python -c 'import pyfuse3, trio, pytest' 2>/dev/null; then
    touch .venv/.ready
    exit 0
fi
say "installing pyunionfs and its test tools into .venv"
# compat: a path in a .pth file, where an import hook would cost every start 13 ms.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat -e '.[test]'
.venv/bin/python -c 'import pyfuse3, trio, pytest'
# Other users cannot store it here, and would compile all modules at each start.
.venv/bin/python -m compileall -q unionfs
touch .venv/.ready
say "ready: .venv/bin/pyunionfs"
