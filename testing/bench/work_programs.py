"""Workloads of real programs: git, Python, a compiler, a database."""

from __future__ import annotations

import sys

from testing.bench.work import Measure, Run, check, count_names, run, workload


@workload(
    "git",
    "programs",
    Measure("git add", "git add of {git_files} lower files"),
    Measure("git commit", "git commit of them"),
    Measure("git status", "git status ten times after that"),
    stack="source git_files",
)
def _git(bench: Run) -> None:
    tree = bench.merged / "source"
    settings = ["user.name=bench", "user.email=bench@localhost", "gc.auto=0", "safe.directory=*"]
    git = ["git", *(word for setting in settings for word in ("-c", setting))]
    run([*git, "init", "-q", "."], cwd=tree)
    bench.program("git add", [*git, "add", "."], cwd=tree)
    bench.program("git commit", [*git, "commit", "-q", "-m", "all"], cwd=tree)
    status = " ".join([*git, "status", "--porcelain"])
    text = bench.program(
        "git status", ["sh", "-c", f"for i in 0 1 2 3 4 5 6 7 8 9; do {status}; done"], cwd=tree
    )
    check(text == "", f"git status says {text[:100]}")
    listed = run([*git, "ls-tree", "-r", "HEAD"], cwd=tree).count("\n")
    check(listed == bench.sizes.git_files, f"{listed} files were committed")
    check(count_names(tree / ".git" / "objects") > bench.sizes.git_files, "objects are missing")


@workload("python imports", "programs", stack="python", changes=False)
def _imports(bench: Run) -> None:
    """python imports {modules} modules from the last of five directories, three times"""
    program = (
        "import sys, importlib\n"
        f"sys.path[:0] = ['{bench.merged}/path%d' % each for each in range(5)]\n"
        f"for each in range({bench.sizes.modules}):\n"
        "    module = importlib.import_module('package%03d.module%04d' % (each // 30, each))\n"
        "    assert module.function1(1) == 2 and '__pycache__' in module.__cached__\n"
    )
    once = [sys.executable, "-I", "-S", "-B", "-c", program]
    run([sys.executable, "-I", "-S", "-c", "pass"])
    bench.program(
        "python imports",
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import subprocess\nfor _ in range(3): subprocess.run({once!r}, check=True)",
        ],
    )


@workload("gcc build", "programs", stack="project")
def _build(bench: Run) -> None:
    """make -j2 of {sources} C files, each with 60 headers from the last of three directories"""
    bench.program("gcc build", ["make", "-s", "-j2"], cwd=bench.merged)
    members = run(["ar", "t", "libproject.a"], cwd=bench.merged).count("\n")
    check(members == bench.sizes.sources, f"{members} files were built")
    os_again = run(["make", "-q"], cwd=bench.merged)
    check(os_again == "", "make would build again")


@workload("sqlite", "programs", stack="small")
def _sqlite(bench: Run) -> None:
    """sqlite: {inserts} transactions of one row and one of {rows}"""
    script = bench.tools / "inserts.sql"
    if not script.exists():
        single = "".join(
            f"INSERT INTO t VALUES({each}, 'row {each}');\n" for each in range(bench.sizes.inserts)
        )
        many = "".join(f"INSERT INTO t VALUES({each}, 'one of many');\n" for each in range(bench.sizes.rows))
        script.write_text(f"CREATE TABLE t(a INTEGER, b TEXT);\n{single}BEGIN;\n{many}COMMIT;\n")
    database = bench.merged / "d" / "data.db"
    bench.program("sqlite", ["sqlite3", str(database), f".read {script}"])
    rows = int(run(["sqlite3", str(database), "SELECT count(*) FROM t"]))
    check(rows == bench.sizes.inserts + bench.sizes.rows, f"{rows} rows are there")
