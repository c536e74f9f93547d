r"""The functions of completion scripts that shtab does not make, for each kind of value and shell.

Their data is the table of mount options. For bash there is also a function around shtab's: bash splits words
at `:` and `=`, so lists of directories and of options must be joined again.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable

from unionfs.options.option import Option
from unionfs.options.table import OPTIONS

KINDS: dict[str, dict[str, str]] = {
    "file": {"bash": "_pyunionfs_file", "zsh": "_files", "fish": "(__fish_complete_path (commandline -ct))"},
    "directory": {
        "bash": "_pyunionfs_dir",
        "zsh": "_files -/",
        "fish": "(__fish_complete_directories (commandline -ct) '')",
    },
    "layers": {"bash": "_pyunionfs_dir", "zsh": "_pyunionfs_layers", "fish": "(_pyunionfs_layers)"},
    "mountpoint": {
        "bash": "_pyunionfs_mountpoint_dir",
        "zsh": "_pyunionfs_mountpoints",
        "fish": "(_pyunionfs_mountpoints)",
    },
    "any_directory": {
        "bash": "_pyunionfs_any_dir",
        "zsh": "_pyunionfs_mountpoints",
        "fish": "(_pyunionfs_mountpoints)",
    },
    "image": {"bash": "_pyunionfs_image", "zsh": "_pyunionfs_images", "fish": "(_pyunionfs_images)"},
    "container": {
        "bash": "_pyunionfs_container",
        "zsh": "_pyunionfs_containers",
        "fish": "(_pyunionfs_containers)",
    },
    "anything": {
        "bash": "_pyunionfs_anything_dir",
        "zsh": "_pyunionfs_anything",
        "fish": "(_pyunionfs_anything)",
    },
    "mount_options": {
        "bash": "_pyunionfs_dir",  # never called: the function around shtab's completes these
        "zsh": "_pyunionfs_mount_options",
        "fish": "(_pyunionfs_mount_options)",
    },
}
"""What completes each kind, by shell. shtab takes functions with `_file` or `_dir` in the name for file
names."""

_IMAGES = "pyunionfs images --format '{{.Repository}}:{{.Tag}}' 2>/dev/null | grep -v '<none>'"
_CONTAINERS = "pyunionfs ps --all --format '{{.Names}}' 2>/dev/null"
_MOUNTPOINTS = "findmnt -nlo TARGET -t fuse.pyunionfs 2>/dev/null"

_COMMANDS = {"images": _IMAGES, "containers": _CONTAINERS, "mountpoints": _MOUNTPOINTS}
"""What lists them, in every shell."""


def _completed_by(what: str) -> list[str]:
    """The names of the options whose values are completed as *what*: "directory" or "file"."""
    return [name for name, option in OPTIONS.items() if option.kind and option.kind.completes == what]


def _words(option: Option) -> list[str]:
    """The option without a value, with its `=`, or both."""
    if option.flag is None:
        return [f"{option.name}="]
    return [option.name, f"{option.name}="] if option.takes_value else [option.name]


_BASH = r"""
_pyunionfs_file() { compgen -f -- "$1"; }
_pyunionfs_dir() { compgen -d -- "$1"; }
_pyunionfs_mountpoint_dir() {
  local mountpoint
  while IFS= read -r mountpoint; do
    [[ $mountpoint == "$1"* ]] && printf '%s\n' "$mountpoint"
  done < <({mountpoints})
  # A path that is relative, or a mount with another subtype.
  [[ $1 == /* ]] || compgen -d -- "$1"
}
_pyunionfs_any_dir() {
  _pyunionfs_mountpoint_dir "$1"
  [[ $1 == /* ]] && compgen -d -- "$1"
}
_pyunionfs_image() { compgen -W "$({images})" -- "$1"; }
_pyunionfs_container() { compgen -W "$({containers})" -- "$1"; }
_pyunionfs_anything_dir() {
  _pyunionfs_container "$1"
  _pyunionfs_image "$1"
  _pyunionfs_mountpoint_dir "$1"
}
# $1: an option with the beginning of a value; prints its values
_pyunionfs_values() {
  local name=${1%%=*} value=${1#*=}
  case $name in
{values}
    {layers}) compgen -d -- "${value##*:}" ;;
    {files}) compgen -f -- "$value" ;;
  esac
}
# $1: the beginning of mount options; prints the completed lists
_pyunionfs_mount_options() {
  local last=${1##*,} word
  local before=${1%"$last"}
  if [[ $last == *=* ]]; then
    local name=${last%%=*}=
    local value=${last#*=}
    [[ $value == *:* ]] && name+=${value%"${value##*:}"}
    while IFS= read -r word; do printf '%s\n' "$before$name$word"; done < <(_pyunionfs_values "$last")
  else
    while IFS= read -r word; do printf '%s\n' "$before$word"; done < <(
      compgen -W {words} -- "$last")
  fi
}
# What bash calls. It splits the line at `:` and `=`, too, and expects what follows the last of them.
_pyunionfs() {
  local left=${COMP_LINE:0:COMP_POINT}
  local current=${left##*[[:space:]]}
  local rest=${left%"$current"}
  rest=${rest%"${rest##*[![:space:]]}"}
  local previous=${rest##*[[:space:]]} word
  local known=${current%"${current##*[:=]}"}
  COMPREPLY=()
  if [[ $previous == -o || $current == -o* ]]; then
    local option=''
    [[ $previous == -o ]] || option=-o
    compopt -o nospace 2>/dev/null
    [[ ${current##*,} == @({layers}|{files})=* ]] && compopt -o filenames 2>/dev/null
    while IFS= read -r word; do COMPREPLY+=("${word#"$known"}"); done < <(
      while IFS= read -r word; do printf '%s\n' "$option$word"; done < <(
        _pyunionfs_mount_options "${current#"$option"}"))
  elif [[ $current == *:* && $current != -* ]]; then
    while IFS= read -r word; do COMPREPLY+=("${word#"$known"}"); done < <(_pyunionfs_image "$current")
    (( ${#COMPREPLY[@]} )) && return
    compopt -o filenames 2>/dev/null
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -d -- "${current##*:}")
  else
    _shtab_pyunionfs
  fi
}
"""

_ZSH = r"""
_pyunionfs_layers() {
  compset -P '*:'
  _files -/
}
_pyunionfs_mountpoints() {
  local -a mountpoints
  mountpoints=(${(f)"$({mountpoints})"})
  (( $#mountpoints )) && compadd -f -a mountpoints
  _files -/
}
_pyunionfs_images() {
  local -a images
  images=(${(f)"$({images})"})
  (( $#images )) && compadd -a images
}
_pyunionfs_containers() {
  local -a containers
  containers=(${(f)"$({containers})"})
  (( $#containers )) && compadd -a containers
}
_pyunionfs_anything() {
  _pyunionfs_containers
  _pyunionfs_images
  _pyunionfs_mountpoints
}
_pyunionfs_mount_options() {
  _values -s , 'mount option' \
{specs}
}
"""

_FISH = r"""
function _pyunionfs_layers
  set -l token (commandline -ct)
  set -l before (string match -r '^.*:' -- $token)
  for directory in (__fish_complete_directories (string replace -r '^.*:' '' -- $token) '')
    printf '%s%s\n' "$before" $directory
  end
end
function _pyunionfs_mountpoints
  {mountpoints}
  __fish_complete_directories (commandline -ct) ''
end
function _pyunionfs_images
  {images}
end
function _pyunionfs_containers
  {containers}
end
function _pyunionfs_anything
  _pyunionfs_containers
  _pyunionfs_images
  _pyunionfs_mountpoints
end
function _pyunionfs_mount_options
  set -l token (string replace -r '^-o' '' -- (commandline -ct))
  set -l before (string match -r '^.*,' -- $token)
  set -l last (string replace -r '^.*,' '' -- $token)
  if string match -qr '^({files})=' -- $last
    for file in (__fish_complete_path (string replace -r '^[^=]*=' '' -- $last))
      printf '%s%s%s\n' "$before" (string match -r '^[^=]*=' -- $last) $file
    end
    return
  end
  if string match -qr '^({layers})=' -- $last
    set before "$before"(string match -r '^(?:[^=]*=)(?:.*:)?' -- $last)
    for directory in (__fish_complete_directories (string replace -r '^[^=]*=(.*:)?' '' -- $last) '')
      printf '%s%s\n' "$before" $directory
    end
    return
  end
{lines}
end
"""


def _filled(template: str, **parts: str) -> str:
    for name, text in parts.items():
        template = template.replace("{" + name + "}", text)
    return template


def _bash() -> str:
    values = [
        f'    {name}) compgen -W {shlex.quote(" ".join(option.values))} -- "$value" ;;'
        for name, option in OPTIONS.items()
        if option.values
    ]
    words = [word for option in OPTIONS.values() for word in _words(option)]
    return _filled(
        _BASH,
        **_COMMANDS,
        values="\n".join(values),
        layers="|".join(_completed_by("directory")),
        files="|".join(_completed_by("file")),
        words=shlex.quote(" ".join(words)),
    )


_ZSH_VALUES = {"directory": "_pyunionfs_layers", "file": "_files", "": " "}


def _zsh() -> str:
    specs = []
    for name, option in OPTIONS.items():
        text = "".join("\\" + letter if letter in "[]:\\" else letter for letter in option.text)
        spec = f"{name}[{text}]"
        if option.takes_value:
            what = _ZSH_VALUES[option.kind.completes] if option.kind else " "
            what = f"({' '.join(option.values)})" if option.values else what
            spec += f"{'::' if option.flag is not None else ':'}value:{what}"
        specs.append("    " + shlex.quote(("*" if option.repeatable else "") + spec))
    return _filled(_ZSH, **_COMMANDS, specs=" \\\n".join(specs))


def _fish() -> str:
    lines = []
    for name, option in OPTIONS.items():
        words = [f"{name}={value}" for value in option.values] if option.values else []
        words = [*([name] if option.flag is not None else []), *words] or [f"{name}="]
        lines += [
            f"  printf '%s%s\\t%s\\n' \"$before\" {_fish_quote(word)} {_fish_quote(option.text)}"
            for word in words
        ]
    layers = "|".join(_completed_by("directory")).replace("+", "\\+")
    files = "|".join(_completed_by("file"))
    return _filled(_FISH, **_COMMANDS, layers=layers, files=files, lines="\n".join(lines))


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


EXTRAS: dict[str, Callable[[], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
"""The functions for each shell."""
