#!/usr/bin/env bash
# Shows a newcomer what a union filesystem does, on real directories, and checks each thing that it shows.
#
# Everything happens in one scratch directory that is removed at the end, also after a failure or Ctrl-C; nothing
# outside it is written, and the layers of the demo are compared at the end: a lower layer must never change.
#
#   PYUNIONFS=/usr/local/bin/pyunionfs scripts/demo.sh      shows another installation than the checkout's .venv
set -euo pipefail
cd "$(dirname "$0")/.."

pyunionfs=${PYUNIONFS:-$PWD/.venv/bin/pyunionfs}
scratch='' tmpfs=''

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then bold=$'\e[1m' blue=$'\e[1;34m' green=$'\e[32m' plain=$'\e[0m'; else bold='' blue='' green='' plain=''; fi
die()   { printf 'demo: %s\n' "$*" >&2; exit 1; }
title() { printf '\n%s== %s%s\n' "$blue" "$*" "$plain"; }
text()  { printf '   %s\n' "$@"; }
run()   { printf '%s$ %s%s\n' "$bold" "$*" "$plain"; "$@"; }
shell() { printf '%s$ %s%s\n' "$bold" "$1" "$plain"; bash -c "set -e; $1"; }
check() { # check "what must be true" command...
    local what=$1; shift
    "$@" || die "this must be true and is not: $what"
    printf '   %s✓ %s%s\n' "$green" "$what" "$plain"
}

mounted() { awk -v point="$1" '$5 == point { found = 1 } END { exit !found }' /proc/self/mountinfo; }
cleanup() {
    status=$?
    trap - EXIT; trap '' INT TERM
    if [ -n "$scratch" ]; then
        cd /
        if mounted "$scratch/merged"; then
            "$pyunionfs" umount "$scratch/merged" 2>/dev/null || umount -l "$scratch/merged"
        fi
        if [ -n "$tmpfs" ]; then umount -l "$scratch"; fi
        rm -rf --one-file-system "$scratch"
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[ "$(id -u)" = 0 ] || die "run it as root: the demo uses chroot and trusted.* attributes (the filesystem itself does not need root)"
[ -x "$pyunionfs" ] || die "no $pyunionfs: run 'make setup' first"
[ -c /dev/fuse ] || die "no /dev/fuse: 'modprobe fuse', or in a container: --device /dev/fuse --cap-add SYS_ADMIN"
busybox=$(command -v busybox) || die "no busybox: run 'make setup', which installs busybox-static"

# Whiteouts are character devices 0/0 and marks are trusted.* attributes. A container's own root (an overlayfs)
# refuses to hold them; memory does not.
scratch=$(mktemp -d "${TMPDIR:-/tmp}/pyunionfs-demo.XXXXXX")
scratch=$(realpath "$scratch")
if ! { mknod "$scratch/probe" c 0 0 && setfattr -n trusted.overlay.probe -v y "$scratch"; } 2>/dev/null; then
    mount -t tmpfs -o mode=0700 tmpfs "$scratch" || die "$scratch cannot hold whiteouts, and no tmpfs could be mounted: run it in a container with --cap-add SYS_ADMIN, or set TMPDIR to a directory on ext4, xfs, btrfs or tmpfs"
    tmpfs=yes
fi
rm -f "$scratch/probe"
setfattr -x trusted.overlay.probe "$scratch" 2>/dev/null || true
cd "$scratch"
umask 022
mkdir base app site upper work merged

# ---- the layers: a root filesystem, an application on it, a site's configuration on top -----------------------
mkdir -p base/{bin,dev,proc,tmp,root,etc,usr/share/doc/base,var/log}
cp "$busybox" base/bin/busybox
for applet in $("$busybox" --list | grep -xE 'sh|ls|cat|echo|rm|mv|mkdir|id|uname|wc|find|sort|head|stat|sed|grep|adduser|touch|ln'); do
    ln -s busybox "base/bin/$applet"
done
echo 'root:x:0:0:root:/root:/bin/sh' > base/etc/passwd
echo 'root:x:0:' > base/etc/group
echo 'PRETTY_NAME="Demo base system"' > base/etc/os-release
echo 'Welcome to the base system.' > base/etc/motd
echo 'listen = 80' > base/etc/server.conf
echo 'Not read by any program.' > base/usr/share/doc/base/README
mkdir -p app/{bin,etc,usr/share/doc/app}
# shellcheck disable=SC2016
printf '%s\n' '#!/bin/sh' 'echo "server: $(cat /etc/server.conf)"' 'echo "started $(id -un)" >> /var/log/server.log' > app/bin/server
chmod 755 app/bin/server
echo 'The manual.' > app/usr/share/doc/app/manual
mkdir -p site/etc
echo 'listen = 8080' > site/etc/server.conf

digest() { # every name, type, mode, owner, time, link target and content of the lowers
    find base app site -printf '%p %y %m %U %G %T@ %l\n' | LC_ALL=C sort
    find base app site -type f -exec sha256sum {} + | LC_ALL=C sort
}
before=$(digest | sha256sum)

title 'Three layers, each an ordinary directory'
text 'base: a root filesystem    app: an application    site: the configuration of this machine' ''
run ls -C base base/etc
run ls -C app app/bin
run cat base/etc/server.conf site/etc/server.conf

title 'One tree'
text 'The leftmost layer is on top. Changes will go to upper, the others are never written.' ''
printf '%s$ pyunionfs mount site:app:base upper work merged%s\n' "$bold" "$plain"
"$pyunionfs" mount site:app:base upper work merged
run ls -C merged merged/etc merged/usr/share/doc
run cat merged/etc/server.conf
check "the top layer's file is the one that is seen" grep -qx 'listen = 8080' merged/etc/server.conf
check "a directory in several layers shows each name once" test "$(ls merged/usr/share/doc | xargs)" = 'app base'
check 'upper is still empty: reading copies nothing' test -z "$(ls -A upper)"

title 'Copy-up: the first change to a lower file copies it to upper'
shell 'echo "Have a nice day." >> merged/etc/motd'
run cat merged/etc/motd
run ls -l upper/etc
check 'upper has the changed file' test "$(wc -l < upper/etc/motd)" = 2
check "base's file is as it was" test "$(cat base/etc/motd)" = 'Welcome to the base system.'

title 'Deletion: a whiteout in upper says that the name is gone'
run rm -r merged/etc/server.conf merged/usr/share/doc/base
run ls -C merged/etc merged/usr/share/doc
run ls -l upper/etc upper/usr/share/doc
check 'the name is gone from the tree' test ! -e merged/etc/server.conf
check 'the whiteout is a character device 0/0' test "$(stat -c '%F %t:%T' upper/etc/server.conf)" = 'character special file 0:0'
check 'the file is still in its layers' test -f site/etc/server.conf -a -f base/etc/server.conf

title 'A process that has the merged tree as its root filesystem'
# shellcheck disable=SC2016
program='. /etc/os-release; echo "I run on: $PRETTY_NAME"
echo "listen = 443" > /etc/server.conf
server && cat /var/log/server.log
mv /usr/share/doc/app /usr/share/doc/server && ls /usr/share/doc
ln -s motd /etc/issue && cat /etc/issue'
printf "%s\$ chroot merged /bin/sh -c '%s'%s\n" "$bold" "$program" "$plain"
env -i PATH=/bin "$(command -v chroot)" merged /bin/sh -ec "$program" | tee "$scratch/said" # a process of base's busybox, not of this machine
check 'it ran the application with its own configuration' grep -qx 'server: listen = 443' said
check 'it renamed a directory of a lower layer' test -f merged/usr/share/doc/server/manual -a ! -e merged/usr/share/doc/app

title 'Unmount: what upper now holds is the difference, nothing else'
printf '%s$ pyunionfs umount merged%s\n' "$bold" "$plain"
"$pyunionfs" umount merged
check 'nothing is mounted any more' test -z "$(ls -A merged)"
shell 'cd upper && find . -mindepth 1 | LC_ALL=C sort | xargs ls -ld --time-style=+ | tr -s " " | cut -d" " -f1,5-'
run getfattr -R -P -d --absolute-names -m '^trusted[.]overlay[.](redirect|opaque)$' upper
check 'site, app and base are as they were' test "$(digest | sha256sum)" = "$before"
text '' "This is kernel overlayfs's own format: the same directories can be mounted with" \
     '  mount -t overlay -o lowerdir=site:app:base,upperdir=upper,workdir=work,redirect_dir=on overlay merged'

title 'The union as an image, and a container of it'
text 'What the union of site, app and base shows becomes an image of one layer. Images lie in a store:' \
     'this one is in a directory of the demo. A container is a union over the image, with an upper of its own.' ''
export PYUNIONFS_STORE=$scratch/store
pyunionfs() {
    local word line=''
    for word; do
        case $word in *[!A-Za-z0-9_./:-]*) line+=" '$word'" ;; *) line+=" $word" ;; esac
    done
    printf '%s$ pyunionfs%s%s\n' "$bold" "$line" "$plain"
    "$pyunionfs" "$@"
}
pyunionfs mount site:app:base merged
pyunionfs import -c 'CMD ["server"]' merged demo:base
pyunionfs umount merged
# shellcheck disable=SC2016
pyunionfs run --name web demo:base sh -c 'echo "listen = 443" > /etc/server.conf; rm -r /usr/share/doc; server'
pyunionfs diff web | tee said
check 'the container has changes of its own' grep -qx 'C /etc/server.conf' said

title 'Commit: the changes become the next layer'
text 'The upper of the container becomes a second layer, over that of the image, which stays as it is.' ''
pyunionfs commit -m 'listen on 443' -a demo -c 'CMD ["server"]' web demo:443
pyunionfs images
pyunionfs history --format '{{.Size}}: {{.Comment}}' demo:443
pyunionfs inspect --format '{{.Author}}: {{.Comment}}, {{len .RootFS.Layers}} layers, runs {{.Config.Cmd}}' demo:443 | tee said
check 'the new image has one layer more' grep -qx 'demo: listen on 443, 2 layers, runs \[server\]' said

title 'The committed image runs'
text 'A new container of it: the file is changed, and /usr/share/doc is gone.' ''
pyunionfs run --rm demo:443 | tee said
check 'with the changed file' grep -qx 'server: listen = 443' said
pyunionfs run --rm demo:443 ls -C /etc /usr/share
check 'site, app and base are as they were' test "$(digest | sha256sum)" = "$before"
printf '\n%sThat was a union filesystem, and images on it. Next: the first mount of your own, in README.md.%s\n' "$bold" "$plain"
