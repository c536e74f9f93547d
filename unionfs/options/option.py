"""One mount option: what is known of it by itself, and what follows from that.

Parsing, printing, help texts and the keyword of `unionfs.mount` ask an `Option`; which options there are
stands in `table.py`. Must not know any option by name. A value that an option cannot have is an
`OptionError`.

Every `mount` loads this module, hence named tuples and no dataclasses: those are slower to define.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from typing import NamedTuple

from unionfs.errors import OptionError
from unionfs.options.kinds import Kind, Value
from unionfs.options.lists import escape, unescape


class Option(NamedTuple):
    """One name that `-o` takes.

    `field` is the configuration field that it sets, of that name in every part of `MountOptions` which has
    one; without it the option is accepted and has no effect. A value is one of the words in `values`, or of
    the `kind`, and is called `metavar` in help texts. `flag` is the value of the bare name; None: the name
    needs a value. A `repeatable` option adds a value each time it is given. `default` is how the default is
    written, and `default_note` where it is another. `parameter` is the parameter of `unionfs.mount` that
    stands for the option, if that is no keyword of the option's own name.
    """

    name: str
    field: str
    group: str
    help: str
    kind: Kind | None = None
    metavar: str = ""
    values: Mapping[str, Value] | None = None
    flag: Value | None = None
    repeatable: bool = False
    default: str = ""
    default_note: str = ""
    parameter: str = ""

    @property
    def takes_value(self) -> bool:
        return self.kind is not None or self.values is not None

    @property
    def syntax(self) -> str:
        """How the option is written: `name`, `name=VALUE` or `name[=VALUE]`."""
        if not self.takes_value:
            return self.name
        value = "|".join(self.values) if self.values is not None else self.metavar
        return f"{self.name}[={value}]" if self.flag is not None else f"{self.name}={value}"

    @property
    def text(self) -> str:
        """The help text with the default."""
        if not self.default:
            return self.help
        default = "default" if self.default == self.name else f"default: {self.default}"
        note = f"; {self.default_note}" if self.default_note else ""
        return f"{self.help} ({default}{note})"

    @property
    def keyword(self) -> str:
        """Its keyword of `unionfs.mount`: the name, with an underscore where that is a word of Python."""
        return self.parameter or (f"{self.name}_" if keyword.iskeyword(self.name) else self.name)

    @property
    def python_type(self) -> str:
        """The type of the keyword, as it is written in `unionfs.Options`."""
        if self.kind is not None:
            return self.kind.python
        if self.values is None or set(self.values) <= {"on", "off", "0", "1"}:
            return "bool"
        return f"Literal[{', '.join(map(_quoted, self.values.values()))}]"

    def value(self, text: str | None) -> Value:
        """What the bare name (None) or `name=text` means; OptionError for what it cannot."""
        if self.flag is not None and (text is None or not (text or self.takes_value)):
            if text is not None:
                raise self._no_value("")
            return self.flag
        if text and not self.takes_value:
            raise self._no_value(text)
        if not text:
            raise OptionError(f"mount option {self.name} needs a value: write {self.syntax}")
        if self.values is not None:
            if text not in self.values:
                raise OptionError(f"invalid value {text!r} of mount option {self.name}: write {self.syntax}")
            return self.values[text]
        assert self.kind is not None
        return self.kind.read(self.name, text)

    def word(self, value: Value) -> str | None:
        """The word of `-o` with this value; None: this option has no such value."""
        if self.flag is not None and value == self.flag:
            return self.name
        if self.values is not None:
            return next((f"{self.name}={word}" for word, each in self.values.items() if each == value), None)
        return None if self.kind is None else f"{self.name}={escape(self.kind.write(value))}"

    def unescape(self, raw: str) -> str:
        """The value as it was meant, of one that stood in a list of options."""
        return unescape(raw) if self.kind is None else self.kind.unescape(raw)

    def _no_value(self, text: str) -> OptionError:
        return OptionError(f"mount option {self.name}={text}: {self.name} takes no value; write {self.name}")


def _quoted(value: Value) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
