"""Which images a list shows: the filters of `docker images`. Reads only."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from unionfs.errors import ImageError, OptionError
from unionfs.image import find, summary
from unionfs.image.index import Image
from unionfs.image.names import Reference
from unionfs.image.store import Store
from unionfs.image.summary import Summary

Filter = Callable[[Summary], Summary | None]
"""Returns the image, perhaps with fewer of its names; None: it is filtered out."""

KEYS = ("dangling", "reference", "label", "before", "since")


def filters(store: Store, wanted: Sequence[str]) -> list[Filter]:
    """`KEY=VALUE`s of `docker images --filter`. References are alternatives; of all else, each must hold.

    Raises OptionError for an unknown key or a malformed value, NotFoundError for an unknown image.
    """
    made: list[Filter] = []
    patterns: list[str] = []
    for each in wanted:
        key, _, value = each.partition("=")
        match key:
            case "reference":
                patterns.append(value)
            case "dangling":
                made.append(_dangling(value))
            case "label":
                made.append(_label(value))
            case "before" | "since":
                made.append(_by_time(store, key, value))
            case _:
                raise OptionError(f"--filter {each}: unknown key {key!r}: the keys are {', '.join(KEYS)}")
    return [*made, _reference(patterns)] if patterns else made


def _dangling(value: str) -> Filter:
    if value not in ("true", "false", "1", "0"):
        raise OptionError(f"--filter dangling={value}: true or false is expected")
    wanted = value in ("true", "1")
    # A name by digest alone is a name, but one that is gone from its tag (as moby's image service has it).
    return lambda each: each if (not each.image.tags if wanted else not each.dangling) else None


def _label(value: str) -> Filter:
    key, equals, wanted = value.partition("=")
    return lambda each: each if key in each.labels and (not equals or each.labels[key] == wanted) else None


def _by_time(store: Store, key: str, value: str) -> Filter:
    other = summary.summary(store, find.resolve(store, value)).created
    if other is None:
        raise ImageError(f"--filter {key}={value}: that image does not say when it was created")

    def chosen(each: Summary) -> Summary | None:
        if each.created is None:
            return None
        return each if (each.created < other if key == "before" else each.created > other) else None

    return chosen


def _reference(patterns: Sequence[str]) -> Filter:
    expressions = [_glob(pattern) for pattern in patterns]

    def matches(reference: Reference) -> bool:
        forms = (reference.familiar, reference.familiar_name, str(reference), reference.name)
        return any(expression.fullmatch(form) for expression in expressions for form in forms)

    def chosen(each: Summary) -> Summary | None:
        tags = [tag for tag in each.image.tags if matches(tag)]
        digests = [digest for digest in each.image.repo_digests if matches(digest)]
        if not tags and not digests:
            return None
        image = Image(each.image.manifest, tags, digests)
        return Summary(image, each.id, each.created, each.size, each.labels, each.diff_ids)

    return chosen


def _glob(pattern: str) -> re.Pattern[str]:
    """A pattern of Go's path.Match: `*` and `?` match no slash."""
    parts = re.findall(r"\*|\?|\[\^?(?:\\.|[^\]\\])+\]|\\.|.", pattern, re.DOTALL)
    made = {"*": "[^/]*", "?": "[^/]"}
    text = "".join(
        made.get(part) or (part if part.startswith("[") and len(part) > 1 else re.escape(part[-1:]))
        for part in parts
    )
    try:
        return re.compile(text, re.DOTALL)
    except re.error:
        raise OptionError(f"--filter reference={pattern}: malformed pattern") from None


def chosen(images: Sequence[Summary], by: Sequence[Filter]) -> list[Summary]:
    """What all filters let through."""
    found: list[Summary] = []
    for image in images:
        left: Summary | None = image
        for each in by:
            left = each(left) if left is not None else None
        if left is not None:
            found.append(left)
    return found
