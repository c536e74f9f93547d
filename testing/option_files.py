"""`make options`: write the table of mount options into what cannot read it at run time.

That is docs/options.md, and the fields of `unionfs.Options`, which type checkers read. Everything else (help
texts, man page, completion, parsing, printing) reads `unionfs/options/table.py` itself.
"""

from __future__ import annotations

from testing.mounts import REPOSITORY
from unionfs.options.table import GROUPS, OPTIONS

BEGIN = "`make options` writes what follows from unionfs/options/table.py"
END = "`make options` writes what precedes"


def page() -> list[str]:
    """The tables of docs/options.md."""
    lines = []
    for group, title in GROUPS.items():
        lines += ["", f"## {title}", "", "| option | meaning |", "|---|---|"]
        for option in OPTIONS.values():
            if option.group == group:
                syntax, text = (part.replace("|", "\\|") for part in (option.syntax, option.text))
                lines.append(f"| `{syntax}` | {text} |")
    return lines


def fields() -> list[str]:
    """The fields of `unionfs.Options`; layers are parameters of `unionfs.mount` instead."""
    lines = []
    for group, title in GROUPS.items():
        if group != "layers":
            lines.append(f"    # {title}.")
            lines += [
                f"    {each.keyword}: {each.python_type}" for each in OPTIONS.values() if each.group == group
            ]
    return lines


MADE = {"docs/options.md": page, "unionfs/api/keywords.py": fields}
"""What is written into which file."""


def updated(name: str) -> str:
    """The text of one of these files as the table has it."""
    lines = (REPOSITORY / name).read_text().splitlines()
    begin = next(number for number, line in enumerate(lines) if BEGIN in line)
    end = next((number for number, line in enumerate(lines) if END in line), len(lines))
    return "\n".join([*lines[: begin + 1], *MADE[name](), *lines[end:]]) + "\n"


def main() -> None:
    for name in MADE:
        path = REPOSITORY / name
        text = updated(name)
        if text != path.read_text():
            path.write_text(text)
            print(f"{name}: updated")


if __name__ == "__main__":
    main()
