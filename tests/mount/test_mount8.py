"""mount(8), umount(8) and /etc/fstab: real ones, with pyunionfs installed where they look for it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.mount.mount8 import Mount8, needs_mount8
from tests.support.mounts import REPOSITORY, needs_fuse, needs_root
from tests.support.pages import ShellBlock
from tests.support.transports import one_transport
from unionfs.cli.mount_helper import is_for_mount8

pytestmark = [needs_root, needs_fuse, needs_mount8, one_transport]

NO_DAEMON = "! pgrep -x pyunionfs"


@pytest.fixture
def mount8(base: Path) -> Mount8:
    (base / "lower2").mkdir()
    (base / "lower2" / "second").write_text("second\n")
    (base / "lower2" / "same").write_text("upper one\n")
    (base / "lower" / "same").write_text("lower one\n")
    return Mount8(base)


def layers(base: Path) -> str:
    return f"lowerdir={base}/lower:{base}/lower2,upperdir={base}/upper,workdir={base}/work"


@pytest.mark.parametrize("fstype", ["fuse.pyunionfs", "pyunionfs"])
def test_mount_and_umount(mount8: Mount8, base: Path, fstype: str) -> None:
    done = mount8.run(
        f"""mount -t {fstype} anything merged -o {layers(base)} || exit
        findmnt -no SOURCE,FSTYPE,OPTIONS $BASE/merged
        cat merged/file merged/second
        echo changed > merged/file
        umount merged && {NO_DAEMON}"""
    )
    assert done.returncode == 0, done.stdout
    first, *rest = done.stdout.splitlines()
    source, shown, options = first.split()
    assert (source, shown) == ("anything", "fuse.pyunionfs")
    assert options.startswith("rw,relatime,")
    assert rest == ["lower", "second"]
    assert (base / "upper" / "file").read_text() == "changed\n"
    assert (base / "lower" / "file").read_text() == "lower\n"


BIND_MOUNTS = """
touch on_file; mkdir -p on_directory elsewhere
for name in file directory; do
    for words in "on_$name" "./on_$name" "$BASE/on_$name" "-l on_$name"; do
        mount --bind merged/$name on_$name
        umount $words; echo "$words: $?"
        findmnt $BASE/on_$name
    done
done
mount --bind merged elsewhere
umount elsewhere; echo "a second one: $?"
mount --bind merged elsewhere
umount merged; echo "the first one: $?"
cat elsewhere/file
umount elsewhere; echo "the last one: $?"
"""


def test_umount_of_bind_mounts_of_the_union(mount8: Mount8, base: Path) -> None:
    (base / "lower/directory").mkdir()
    done = mount8.run(
        f"mount -t fuse.pyunionfs u merged -o {layers(base)} || exit\n{BIND_MOUNTS}\n{NO_DAEMON}"
    )
    assert done.returncode == 0, done.stdout
    lines = [line for line in done.stdout.splitlines() if "umount.fuse.pyunionfs" not in line]
    by_overlay = mount8.run(f"mount -t overlay o merged -o {layers(base)} || exit\n{BIND_MOUNTS}")
    if "unknown filesystem" not in by_overlay.stdout:
        assert by_overlay.stdout.splitlines() == lines
    assert [line for line in lines if not line.endswith(": 0")] == ["lower"]
    assert len(lines) == 12


def test_umount_8_leaves_no_note_behind(mount8: Mount8, base: Path) -> None:
    done = mount8.run(
        f"""mount -t fuse.pyunionfs u merged -o {layers(base)} && cat /run/mount/utab && umount merged
        cat /run/mount/utab"""
    )
    assert done.stdout == f"SRC=u TARGET={base}/merged ROOT=/ OPTS=uhelper=fuse.pyunionfs\n"


FILESYSTEMS = """
for name in l u; do truncate -s 32M image.$name; mkfs.ext4 -q image.$name; mkdir $name; done
mount -o loop image.l l; mount -o loop image.u u; mkdir l/lower u/upper u/work; echo lower > l/lower/file
"""


@pytest.mark.skipif(not shutil.which("mkfs.ext4"), reason="needs mkfs.ext4")
@pytest.mark.parametrize("program", ["overlay", "fuse.pyunionfs", "fuse.pyunionfs,passthrough=off"])
def test_filesystems_of_layers_can_be_unmounted(mount8: Mount8, base: Path, program: str) -> None:
    """While the union is mounted, and at once after it; mkfs(8) finds them unused then."""
    fstype, _, more = program.partition(",")
    layers = "lowerdir=$BASE/l/lower,upperdir=$BASE/u/upper,workdir=$BASE/u/work"
    mount = f"mount -t {fstype} union merged -o {layers},{more or 'rw'}"
    done = mount8.run(
        f"""{FILESYSTEMS}
        {mount} || exit
        umount l && umount u || exit
        cat merged/file && echo more >> merged/file && touch merged/new && ls merged || exit
        umount merged || exit
        for name in l u; do mount -o loop image.$name $name; done
        cat u/upper/file
        for turn in 1 2 3 4 5; do
            {mount} || exit
            echo $turn >> merged/file
            umount merged && umount u && umount l || exit
            # Only where no mount holds the filesystem any more.
            e2fsck -f -n image.u > /dev/null 2>&1 || exit
            for name in l u; do mount -o loop image.$name $name; done
        done
        tail -n 1 u/upper/file; umount u l"""
    )
    if fstype == "overlay" and "unknown filesystem" in done.stdout:
        pytest.skip("needs kernel overlayfs")
    assert done.returncode == 0, done.stdout
    assert done.stdout.split() == ["lower", "file", "new", "lower", "more", "5"], done.stdout


def test_without_an_upper_it_is_read_only(mount8: Mount8) -> None:
    done = mount8.run(
        """mount -t fuse.pyunionfs overlay merged -o lowerdir=$BASE/lower || exit
        findmnt -no OPTIONS $BASE/merged
        touch merged/new"""
    )
    assert done.stdout.startswith("ro,")
    assert "Read-only file system" in done.stdout


WORDS = [
    "defaults",
    "auto",
    "nofail",
    "_netdev",
    "user",
    "users",
    "owner",
    "group",
    "nouser",
    "comment=what it is for",
    "uhelper=fuse.pyunionfs",
    "helper=fuse.pyunionfs",
    "x-systemd.automount",
    "x-systemd.requires=network.target",
    "x-gvfs-show",
    "X-mount.mkdir",
    "silent",
]


def test_a_line_of_fstab_with_all_that_only_fstab_means_something_by(mount8: Mount8, base: Path) -> None:
    options = ",".join([*WORDS, "noexec", layers(base)]).replace(" ", "\\040")
    done = mount8.run(
        """mount -a -v && mount -a -v || exit
        findmnt -no SOURCE,OPTIONS $BASE/merged
        grep -c ' fuse.pyunionfs ' /proc/self/mountinfo
        umount merged && ! findmnt merged && pgrep -x pyunionfs""",
        fstab=[f"site {base}/merged fuse.pyunionfs {options} 0 0"],
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("mount.fuse.pyunionfs: site mounted on "), done.stdout
    assert "successfully mounted" in lines[1]
    # The second time mount(8) finds by the source that it is mounted.
    assert "already mounted" in lines[2]
    source, shown = lines[3].split()
    assert source == "site"
    assert {"rw", "nosuid", "nodev", "noexec"} <= set(shown.split(","))
    assert lines[4:] == ["1"], "no daemon is left when umount(8) has come back"


def test_every_such_word_by_itself(mount8: Mount8, base: Path) -> None:
    words = [*WORDS, "noauto"]
    for number in range(len(words)):
        (base / str(number)).mkdir()
    lines = [
        f"overlay {base}/{number} fuse.pyunionfs {word},lowerdir={base}/lower 0 0"
        for number, word in enumerate(word.replace(" ", "\\040") for word in words)
    ]
    helper = f"mount.fuse.pyunionfs -f overlay merged -o lowerdir={base}/lower -o"
    script = [f"mount -f {number} || exit; {helper} '{word}' || exit" for number, word in enumerate(words)]
    done = mount8.run("\n".join(script), fstab=lines)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_names_that_need_escapes(mount8: Mount8, base: Path) -> None:
    odd = base / "a name, with:everything\\"
    odd.mkdir()
    (odd / "odd").touch()
    target = base / "a target"
    target.mkdir()
    escaped = str(odd).replace("\\", "\\\\").replace(":", "\\:")
    # fstab has its own, which mount(8) undoes.
    in_fstab = escaped.replace("\\", "\\134").replace(" ", "\\040")
    done = mount8.run(
        f"""OPTIONS='lowerdir="{escaped}:{base}/lower"'
        mount "$BASE/a target" || exit
        ls "a target" && umount "a target" || exit
        mount -t fuse.pyunionfs overlay merged -o "$OPTIONS" || exit
        ls merged && umount merged""",
        fstab=[f'overlay {base}/a\\040target fuse.pyunionfs lowerdir="{in_fstab}:{base}/lower",noauto 0 0'],
    )
    assert (done.returncode, done.stdout) == (0, "file\nodd\nsame\n" * 2), done.stdout


def test_relative_paths_are_the_callers(mount8: Mount8, base: Path) -> None:
    options = "lowerdir=lower:lower2,upperdir=upper,workdir=work"
    done = mount8.run(f"mount -t fuse.pyunionfs overlay merged -o {options} && ls merged && umount merged")
    assert (done.returncode, done.stdout) == (0, "file\nsame\nsecond\n")


def test_lowers_one_by_one(mount8: Mount8, base: Path) -> None:
    done = mount8.run(
        "mount merged && cat merged/same merged/second && umount merged",
        fstab=[f"x {base}/merged fuse.pyunionfs lowerdir+={base}/lower2,ro,lowerdir+={base}/lower 0 0"],
    )
    assert (done.returncode, done.stdout) == (0, "upper one\nsecond\n")


def test_a_very_long_line(mount8: Mount8, base: Path) -> None:
    names = [f"layer-with-a-long-name-{number:03}" for number in range(200)]
    for name in names:
        (base / name).mkdir()
        (base / name / name).touch()
    lowers = ":".join(str(base / name) for name in names)
    assert len(lowers) > 2 * 4096
    done = mount8.run(
        "mount merged && ls merged | wc -l && umount merged",
        fstab=[f"overlay {base}/merged fuse.pyunionfs lowerdir={lowers} 0 0"],
    )
    assert (done.returncode, done.stdout) == (0, "200\n")


def test_mount_again_at_once(mount8: Mount8, base: Path) -> None:
    """umount(8) that knows nothing of the helper (-i) comes back before the daemon is gone."""
    once = "mount merged && echo x >> merged/file && umount -i merged || exit"
    done = mount8.run(
        "\n".join([once] * 5), fstab=[f"overlay {base}/merged fuse.pyunionfs {layers(base)} 0 0"]
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
    assert (base / "upper" / "file").read_text() == "lower\n" + 5 * "x\n"


class TestRemount:
    def test_read_only_and_back(self, mount8: Mount8, base: Path) -> None:
        done = mount8.run(
            """mount merged && touch merged/one && mount -v -o remount,ro merged || exit
            findmnt -no OPTIONS $BASE/merged
            touch merged/two
            pyunionfs status --json merged | grep -c '"ro"'
            mount -v -o remount,rw merged && touch merged/two && findmnt -no OPTIONS $BASE/merged
            pyunionfs status --json merged | grep -c '"ro"'""",
            fstab=[f"overlay {base}/merged fuse.pyunionfs {layers(base)},nosuid 0 0"],
        )
        lines = done.stdout.splitlines()
        assert lines[0].endswith("/merged remounted with ro,nosuid")
        assert lines[1].startswith("ro,nosuid,relatime,")
        assert "Read-only file system" in lines[2]
        assert lines[3] == "1"
        assert lines[4].endswith("/merged remounted with nosuid")
        assert lines[5].startswith("rw,nosuid,relatime,")
        assert lines[6:] == ["0"]

    def test_by_the_mount_table_alone(self, mount8: Mount8, base: Path) -> None:
        mounted = f"mount -t fuse.pyunionfs overlay merged -o {layers(base)},noexec,noatime,max_read=65536"
        done = mount8.run(f"{mounted} && mount -o remount,ro merged && findmnt -no OPTIONS $BASE/merged")
        assert done.stdout.startswith("ro,noexec,noatime,"), done.stdout

    def test_what_has_no_upper_stays_read_only(self, mount8: Mount8, base: Path) -> None:
        done = mount8.run(
            "mount merged && mount -o remount,rw merged; echo $?; findmnt -no OPTIONS $BASE/merged",
            fstab=[f"overlay {base}/merged fuse.pyunionfs lowerdir={base}/lower 0 0"],
        )
        complaint, status, shown = done.stdout.splitlines()
        assert "for writing: it has no upper" in complaint
        assert status == "32"
        assert shown.startswith("ro,")

    def test_what_is_open_for_writing_stays_writable(self, mount8: Mount8, base: Path) -> None:
        done = mount8.run(
            "mount merged && exec 9> merged/open && mount -o remount,ro merged; echo $?; exec 9>&-",
            fstab=[f"overlay {base}/merged fuse.pyunionfs {layers(base)} 0 0"],
        )
        complaint, status = done.stdout.splitlines()
        assert "files in it are open for writing" in complaint
        assert status == "32"

    def test_what_is_not_ours(self, mount8: Mount8) -> None:
        done = mount8.run("mount.fuse.pyunionfs x /run -o remount,ro; echo $?; touch /run/still-writable")
        assert "it is a tmpfs mount and not pyunionfs's\n32\n" in done.stdout
        assert done.returncode == 0
        done = mount8.run("mount.fuse.pyunionfs x merged -o remount,ro")
        assert (done.returncode, "nothing is mounted there" in done.stdout) == (32, True)


class TestStatus:
    """The exit status is one of mount(8)'s, and the message one line."""

    def complaint(self, mount8: Mount8, command: str, status: int) -> str:
        done = mount8.run(f"{command}; status=$?; mountpoint -q merged && exit 99; exit $status")
        assert (done.returncode, done.stdout.count("\n")) == (status, 1), done.stdout
        assert done.stdout.startswith("mount.fuse.pyunionfs: ")
        return done.stdout

    def test_without_layers(self, mount8: Mount8) -> None:
        said = self.complaint(mount8, "mount -t fuse.pyunionfs overlay merged", 1)
        assert "and no layers: " in said
        assert "lowerdir=" in said

    def test_an_unknown_option(self, mount8: Mount8) -> None:
        command = "mount -t fuse.pyunionfs overlay merged -o lowerdir=lower,volatil"
        assert "did you mean volatile?" in self.complaint(mount8, command, 1)

    def test_a_wrong_value_also_with_s(self, mount8: Mount8) -> None:
        command = "mount -s -t fuse.pyunionfs overlay merged -o lowerdir=lower,index=maybe"
        assert "invalid value 'maybe' of mount option index" in self.complaint(mount8, command, 1)

    def test_a_missing_layer(self, mount8: Mount8) -> None:
        command = "mount -t fuse.pyunionfs overlay merged -o lowerdir=/not/there,nofail"
        assert "lower /not/there does not exist" in self.complaint(mount8, command, 32)

    def test_a_missing_layer_when_it_is_only_tried(self, mount8: Mount8) -> None:
        command = "mount -f -t fuse.pyunionfs overlay merged -o lowerdir=/not/there"
        assert "lower /not/there does not exist" in self.complaint(mount8, command, 32)

    def test_another_namespace(self, mount8: Mount8) -> None:
        command = "mount -N 1 -t fuse.pyunionfs overlay $BASE/merged -o lowerdir=$BASE/lower"
        assert "`nsenter --mount=NAMESPACE mount ...`" in self.complaint(mount8, command, 1)

    def test_too_few_and_too_many_words(self, mount8: Mount8) -> None:
        assert "missing SOURCE or TARGET" in self.complaint(mount8, "mount.fuse.pyunionfs overlay", 1)
        assert "unrecognized arguments: c" in self.complaint(mount8, "mount.fuse.pyunionfs a b c", 1)


def test_sloppy_fake_and_verbose(mount8: Mount8, base: Path) -> None:
    done = mount8.run(
        f"""mount -s -v -t fuse.pyunionfs overlay merged -o bogus,{layers(base)} || exit
        umount -v merged || exit
        mount -f -v -t fuse.pyunionfs overlay merged -o {layers(base)} || exit
        findmnt $BASE/merged; find upper work/index"""
    )
    made = f"lowers {base}/lower:{base}/lower2, upper {base}/upper, work {base}/work"
    assert done.stdout.splitlines()[0] == (f"mount.fuse.pyunionfs: overlay mounted on {base}/merged: {made}")
    assert f"mount.fuse.pyunionfs: overlay could be mounted on {base}/merged: {made}\n" in done.stdout
    assert done.stdout.endswith("upper\nfind: 'work/index': No such file or directory\n")


def test_a_busy_mount(mount8: Mount8, base: Path) -> None:
    line = f"overlay {base}/merged fuse.pyunionfs {layers(base)},x-note 0 0"
    done = mount8.run(
        f"""mount merged && exec 9< merged/file
        umount merged; echo $?
        umount -r -v merged || exit
        touch merged/new
        umount -l merged || exit
        cat <&9
        exec 9<&-
        for i in {{1..100}}; do {NO_DAEMON} > /dev/null && break; sleep 0.05; done
        {NO_DAEMON}""",
        fstab=[line],
    )
    assert done.returncode == 0, done.stdout
    busy, status, read_only, refused, content = done.stdout.splitlines()
    assert busy.startswith("umount.fuse.pyunionfs: ")
    assert "is busy: in use by bash" in busy
    assert status == "32"
    assert read_only.endswith("/merged is busy, and was remounted read-only")
    assert "Read-only file system" in refused
    assert content == "lower"


def test_a_stuck_daemon_is_got_rid_of_by_force(mount8: Mount8, base: Path) -> None:
    done = mount8.run(
        f"""mount -t fuse.pyunionfs overlay merged -o {layers(base)},x-note || exit
        pkill -STOP -x pyunionfs
        (stat merged/second > out 2>&1; echo $? >> out) &
        umount -f merged; echo $?
        wait
        cat out
        findmnt $BASE/merged
        pkill -KILL -x pyunionfs"""
    )
    assert done.returncode == 0, done.stdout
    assert "is unmounted, but its daemon has not ended yet" in done.stdout
    assert "\n0\n" in done.stdout


@pytest.mark.skipif(not shutil.which("mount.fuse3"), reason="needs mount.fuse3 (package fuse3)")
@pytest.mark.parametrize(
    "command",
    [
        "mount.fuse3 site merged -t fuse.pyunionfs",
        "mount.fuse3 site merged -t pyunionfs",
        "mount.fuse3 pyunionfs#site merged",
        # Without our helper mount(8) falls back to that of all FUSE filesystems.
        "rm /usr/sbin/mount.fuse.pyunionfs && mount -t fuse.pyunionfs site merged",
    ],
)
def test_the_helper_of_fuse_itself(mount8: Mount8, base: Path, command: str) -> None:
    done = mount8.run(
        f"""{command} -o {layers(base)},nofail,_netdev || exit
        findmnt -no SOURCE,FSTYPE $BASE/merged && touch merged/new && umount merged"""
    )
    assert (done.returncode, done.stdout.split()) == (0, ["site", "fuse.pyunionfs"]), done.stdout
    assert (base / "upper" / "new").exists()


class TestDocumentation:
    TEXT = (REPOSITORY / "docs" / "mount.md").read_text()

    @pytest.mark.shell_block("docs/mount.md", "mount(8), /etc/fstab and systemd")
    def test_the_first_example_works_as_copied(self, mount8: Mount8, shell_block: ShellBlock) -> None:
        done = mount8.run(f"mount -t tmpfs tmpfs /srv; set -e\n{shell_block.script}\n{NO_DAEMON}")
        assert done.returncode == 0, done.stdout
        assert done.stdout.endswith("from base\nand more\n")
        assert re.search(r"^/srv/site +site +fuse.pyunionfs ", done.stdout, re.MULTILINE)

    def test_it_shows_the_fstab_that_is_tested(self) -> None:
        """tests/systemd mounts what is in it."""
        assert f"```fstab\n{(REPOSITORY / 'docs/examples/fstab').read_text()}```\n" in self.TEXT

    def test_it_names_every_word_that_is_accepted(self) -> None:
        for word in ("defaults", "nofail", "_netdev", "user", "comment=", "uhelper=", "x-...", "X-..."):
            assert word in self.TEXT.partition("changes nothing else: `")[2].partition("`")[0].split()
            assert is_for_mount8(word.rstrip("="))
