# Becomes the systemd of a machine of its own: run by unshare(1) in new mount, process, host name, IPC, network and
# cgroup namespaces, all of which end with it. The root directory is this machine's, and changes go to memory.
#
#   prepare.sh SPACE DIRECTORY...     SPACE is an empty directory; the DIRECTORIES are seen as they are here
set -eu
space=$1
shift
mount -t tmpfs tmpfs "$space"
mkdir "$space/upper" "$space/work" "$space/root"
mount -t overlay -o lowerdir=/,upperdir="$space/upper",workdir="$space/work" overlay "$space/root"
cd "$space/root"

# What a container has, and no more: systemd must not set up the real machine a second time.
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty fuse; do
    # Unquoted: the device's two numbers. udev makes all of these for everybody.
    mknod -m 666 dev/$name c $(stat -c '0x%t 0x%T' /dev/$name)
done
ln -s /proc/self/fd dev/fd
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs dev/shm

# Users must be able to run Python. What is changed here is the root directory in memory: none of these lies in another.
for directory in "$@"; do
    mkdir -p "./$directory"
    above=.$(dirname "$directory")
    until [ "$above" = . ]; do
        chmod a+x "$above"
        above=$(dirname "$above")
    done
done
for directory in "$@"; do
    mount --bind "$directory" "./$directory"
done

# No unit of this machine: only what units wait for, and what the test adds.
units=lib/systemd/system
mkdir run/examples run/units run/old
for name in sysinit basic local-fs local-fs-pre remote-fs remote-fs-pre shutdown umount slices sockets timers paths \
            multi-user final exit; do
    cp "$units/$name.target" run/units/
done
cp "$units/systemd-exit.service" run/units/
cp -a lib/systemd/system-generators/systemd-fstab-generator run/
mount -t tmpfs -o mode=755 tmpfs lib/systemd/system-generators
mv run/systemd-fstab-generator lib/systemd/system-generators/
: > etc/fstab

pivot_root . run/old
umount -l /run/old
rmdir /run/old
exec env -i container=test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    SYSTEMD_UNIT_PATH=/run/examples:/run/units:/run/systemd/generator \
    /lib/systemd/systemd --system --unit=basic.target --log-target=console --show-status=no
