/*
 * The benchmark's loops of single system calls. They are in C because one turn of such a loop in Python
 * costs as much as the call that it is to measure.
 *
 *     micro COMMAND DIRECTORY-OR-FILE ARGUMENT...
 *
 * Prints how many nanoseconds the loop took. Preparation (reading names, allocating) is outside of that time.
 * Any result that is not the expected one ends the program with a message and status 1: a loop that fails
 * quickly must never pass for a fast one.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

static char **names;
static size_t name_count;
static struct timespec began;

static void die(const char *format, ...)
{
	int number = errno;
	va_list list;

	fputs("micro: ", stderr);
	va_start(list, format);
	vfprintf(stderr, format, list);
	va_end(list);
	fprintf(stderr, ": %s\n", number ? strerror(number) : "not as expected");
	exit(1);
}

static void *allocate(size_t size)
{
	void *memory = NULL;

	if (posix_memalign(&memory, PAGE, size))
		die("%zu bytes of memory", size);
	memset(memory, 'x', size);
	return memory;
}

static void start(void)
{
	errno = 0;
	clock_gettime(CLOCK_MONOTONIC, &began);
}

static void stop(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	printf("%lld\n", (now.tv_sec - began.tv_sec) * 1000000000LL + now.tv_nsec - began.tv_nsec);
}

/* xorshift: the same offsets on every system and in every round. */
static uint64_t draw(void)
{
	static uint64_t state = 88172645463325252ULL;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static int open_file(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0644);

	if (fd < 0)
		die("open %s", path);
	return fd;
}

static off_t size_of(int fd)
{
	struct stat st;

	if (fstat(fd, &st))
		die("fstat");
	return st.st_size;
}

static void close_file(int fd)
{
	if (close(fd))
		die("close");
}

/* ---- names ---------------------------------------------------------------------------------------------- */

static void keep(const char *name)
{
	if ((name_count & (name_count - 1)) == 0) {
		names = realloc(names, (name_count ? name_count * 2 : 1) * sizeof *names);
		if (!names)
			die("memory for names");
	}
	names[name_count] = strdup(name);
	if (!names[name_count++])
		die("memory for a name");
}

static void make_names(const char *prefix, long count)
{
	char name[64];

	for (long number = 0; number < count; number++) {
		snprintf(name, sizeof name, "%s%06ld", prefix, number);
		keep(name);
	}
}

static int keep_any(const char *path, const struct stat *st, int kind, struct FTW *where)
{
	(void)st;
	(void)where;
	if (kind == FTW_NS || kind == FTW_DNR)
		die("walk: %s", path);
	keep(path);
	return 0;
}

static int keep_file(const char *path, const struct stat *st, int kind, struct FTW *where)
{
	return kind == FTW_F ? keep_any(path, st, kind, where) : 0;
}

static void walk(int (*keeper)(const char *, const struct stat *, int, struct FTW *))
{
	if (nftw(".", keeper, 32, FTW_PHYS))
		die("walk");
	if (!name_count)
		die("an empty tree");
}

/* ---- loops over names: the working directory is DIRECTORY ------------------------------------------------ */

static void opens(long turns)
{
	for (long turn = 0; turn < turns; turn++)
		close_file(open_file(names[turn % name_count], O_RDONLY));
}

static void stats(long passes)
{
	struct stat st;

	for (long pass = 0; pass < passes; pass++)
		for (size_t each = 0; each < name_count; each++)
			if (lstat(names[each], &st))
				die("lstat %s", names[each]);
}

static void misses(void)
{
	struct stat st;

	for (size_t each = 0; each < name_count; each++)
		if (!lstat(names[each], &st) || errno != ENOENT)
			die("lstat of the missing %s", names[each]);
}

static void creates(void)
{
	for (size_t each = 0; each < name_count; each++)
		close_file(open_file(names[each], O_WRONLY | O_CREAT | O_EXCL));
}

static void unlinks(void)
{
	for (size_t each = 0; each < name_count; each++)
		if (unlink(names[each]))
			die("unlink %s", names[each]);
}

static void renames(const char *prefix)
{
	char target[128];

	for (size_t each = 0; each < name_count; each++) {
		snprintf(target, sizeof target, "%s%06zu", prefix, each);
		if (rename(names[each], target))
			die("rename %s", names[each]);
	}
}

static void appends(void)
{
	for (size_t each = 0; each < name_count; each++) {
		static const char line[] = "appended line\n";
		int fd = open_file(names[each], O_WRONLY | O_APPEND);

		if (write(fd, line, sizeof line - 1) != sizeof line - 1)
			die("append to %s", names[each]);
		close_file(fd);
	}
}

static long listed(void)
{
	DIR *directory = opendir(".");
	struct dirent *entry;
	long count = 0;

	if (!directory)
		die("opendir");
	while (errno = 0, (entry = readdir(directory)))
		count += entry->d_name[0] != '.';
	if (errno)
		die("readdir");
	closedir(directory);
	return count;
}

/* ---- many clients ------------------------------------------------------------------------------------------ */

/* What one client of a busy container does: looks for what is not there, reads, writes a file and removes it. */
static void client(int number, long turns)
{
	char name[64], block[PAGE];

	memset(block, 'c', sizeof block);
	for (long turn = 0; turn < turns; turn++) {
		struct stat st;
		int fd;

		snprintf(name, sizeof name, "missing-%d-%ld", number, turn);
		if (!lstat(name, &st) || errno != ENOENT)
			die("lstat of the missing %s", name);
		fd = open_file(names[(turn * 7 + number) % name_count], O_RDONLY);
		if (read(fd, block, sizeof block) <= 0)
			die("read");
		close_file(fd);
		snprintf(name, sizeof name, "client-%d-%ld", number, turn % 8);
		fd = open_file(name, O_WRONLY | O_CREAT | O_TRUNC);
		if (write(fd, block, sizeof block) != sizeof block)
			die("write %s", name);
		close_file(fd);
		if (unlink(name))
			die("unlink %s", name);
	}
}

static void clients(int count, long turns)
{
	int status, failed = 0;

	for (int number = 0; number < count; number++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork");
		if (pid == 0) {
			client(number, turns);
			_exit(0);
		}
	}
	while (wait(&status) > 0)
		failed |= status;
	errno = 0;
	if (failed)
		die("a client");
}

/* ---- data ---------------------------------------------------------------------------------------------------- */

static void read_all(const char *path, size_t block, off_t size)
{
	char *buffer = allocate(block);
	off_t total = 0;
	ssize_t got;
	int fd;

	start();
	fd = open_file(path, O_RDONLY);
	while ((got = read(fd, buffer, block)) > 0)
		total += got;
	close_file(fd);
	stop();
	errno = got < 0 ? errno : 0;
	if (total != size)
		die("%lld bytes of %s", (long long)total, path);
}

/* `length` bytes in blocks, over a file that grows to `size` and is then written again from its start. */
static void write_all(const char *path, size_t block, off_t length, off_t size)
{
	char *buffer = allocate(block);
	int fd;

	start();
	fd = open_file(path, O_WRONLY | O_CREAT);
	for (off_t done = 0; done < length; done += block)
		if (pwrite(fd, buffer, block, done % size) != (ssize_t)block)
			die("write %s", path);
	close_file(fd);
	stop();
}

static void random_blocks(const char *path, long count, int writing)
{
	char *buffer = allocate(PAGE);
	int fd = open_file(path, writing ? O_WRONLY : O_RDONLY);
	uint64_t blocks = size_of(fd) / PAGE;

	start();
	for (long turn = 0; turn < count; turn++) {
		off_t offset = draw() % blocks * PAGE;
		ssize_t done = writing ? pwrite(fd, buffer, PAGE, offset) : pread(fd, buffer, PAGE, offset);

		if (done != PAGE)
			die("block at %lld of %s", (long long)offset, path);
	}
	close_file(fd);
	stop();
}

static void map(const char *path, long passes, int writing)
{
	unsigned long sum = 0;

	start();
	for (long pass = 0; pass < passes; pass++) {
		int fd = open_file(path, writing ? O_RDWR : O_RDONLY);
		off_t size = size_of(fd);
		char *memory = mmap(NULL, size, writing ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);

		if (memory == MAP_FAILED)
			die("mmap %s", path);
		for (off_t offset = 0; offset < size; offset += PAGE) {
			if (writing)
				memory[offset] = 'A' + pass % 26;
			sum += memory[offset];
		}
		if (munmap(memory, size))
			die("munmap");
		close_file(fd);
	}
	stop();
	errno = 0;
	if (!sum)
		die("the mapped data of %s", path);
}

static void append_once(const char *path)
{
	int fd;

	start();
	fd = open_file(path, O_WRONLY | O_APPEND);
	if (write(fd, "!", 1) != 1)
		die("append to %s", path);
	close_file(fd);
	stop();
}

int main(int argc, char **argv)
{
	const char *command = argc > 2 ? argv[1] : "", *path = argc > 2 ? argv[2] : "";
	const char *word = argc > 3 ? argv[3] : "";
	long long n[4] = {0};
	long found = 0;

	for (int each = 0; each < 4 && each + 3 < argc; each++)
		n[each] = atoll(argv[each + 3]);
#define IS(text) (strcmp(command, text) == 0)
	if (IS("read")) {
		read_all(path, n[0], n[1]);
	} else if (IS("write")) {
		write_all(path, n[0], n[1], n[2]);
	} else if (IS("random-read") || IS("random-write")) {
		random_blocks(path, n[0], IS("random-write"));
	} else if (IS("mmap-read") || IS("mmap-write")) {
		map(path, n[0], IS("mmap-write"));
	} else if (IS("append-once")) {
		append_once(path);
	} else {
		if (!*path || chdir(path))
			die("chdir '%s' for '%s'", path, command);
		/* PREFIX COUNT, or a walk, says which names. */
		if (IS("stats") || IS("appends"))
			walk(IS("appends") ? keep_file : keep_any);
		else if (!IS("list"))
			make_names(word, n[1]);
		start();
		if (IS("opens"))
			opens(n[2]);
		else if (IS("stats"))
			stats(n[0]);
		else if (IS("lookups"))
			stats(1);
		else if (IS("misses"))
			misses();
		else if (IS("creates"))
			creates();
		else if (IS("unlinks"))
			unlinks();
		else if (IS("renames"))
			renames(argc > 5 ? argv[5] : "renamed-");
		else if (IS("appends"))
			appends();
		else if (IS("list"))
			found = listed();
		else if (IS("clients"))
			clients(n[2], n[3]);
		else
			die("no command '%s'", command);
		stop();
		errno = 0;
		if (IS("list") && found != n[0])
			die("%ld names where %lld are", found, n[0]);
	}
	return 0;
}
