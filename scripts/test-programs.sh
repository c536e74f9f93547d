#!/usr/bin/env bash
# Installs the programs that tests start beside pyunionfs: shells, what reads man pages, container engines, systemd.
#
#   scripts/test-programs.sh check mounts rest     for these tiers of tests (tests/tiers.py)
#
# Tests that need one which is missing skip and say so; hence this never fails, and says what it could not install.
# Quick and silent when all is there. It never removes or upgrades a package.
set -uo pipefail

say() { printf 'test-programs: %s\n' "$*"; }

packages=()
for tier; do
    case $tier in
        check) packages+=(groff-base man-db mandoc zsh fish libarchive-tools docker-registry apache2-utils openssl
                           busybox-static) ;;
        mounts) packages+=(fuse-overlayfs uidmap) ;;
        rest) packages+=(fuse-overlayfs uidmap podman buildah crun systemd skopeo umoci containerd busybox-static) ;;
        *) say "no tier $tier"; exit 2 ;;
    esac
done

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || { say "no dpkg and apt-get here: nothing is installed"; exit 0; }
installed=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | sed -n 's/^.i[[:space:]]*//p')
missing=()
for package in "${packages[@]}"; do
    grep -qxF -- "$package" <<<"$installed" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
[ "$(id -u)" = 0 ] || { say "only root can install ${missing[*]}; the tests that need them will be skipped"; exit 0; }

say "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -q update || say "the package lists could not be fetched"
if ! apt-get -q install -y --no-install-recommends "${missing[@]}"; then
    # One that this release lacks must not keep the others away.
    for package in "${missing[@]}"; do
        apt-get -q install -y --no-install-recommends "$package" ||
            say "could not install $package; the tests that need it will be skipped"
    done
fi
exit 0
