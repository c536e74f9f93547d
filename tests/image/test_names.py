"""References as Docker normalises them (github.com/distribution/reference, normalize_test.go's kinds)."""

from __future__ import annotations

import pytest

from unionfs.errors import ImageError
from unionfs.image import names

HEX = "a" * 64


@pytest.mark.parametrize(
    ("text", "whole", "familiar"),
    [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        ("user/repo", "docker.io/user/repo:latest", "user/repo:latest"),
        ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("index.docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
        ("[::1]:5000/a/b:t", "[::1]:5000/a/b:t", "[::1]:5000/a/b:t"),
        ("gcr.io/a/b/c:v1.2_3-x", "gcr.io/a/b/c:v1.2_3-x", "gcr.io/a/b/c:v1.2_3-x"),
        ("Upper/x", "Upper/x:latest", "Upper/x:latest"),
        ("a__b/c---d.e", "docker.io/a__b/c---d.e:latest", "a__b/c---d.e:latest"),
        (f"debian@sha256:{HEX}", f"docker.io/library/debian@sha256:{HEX}", f"debian@sha256:{HEX}"),
        (f"q.io/x:1@sha256:{HEX}", f"q.io/x:1@sha256:{HEX}", f"q.io/x:1@sha256:{HEX}"),
    ],
)
def test_names(text: str, whole: str, familiar: str) -> None:
    reference = names.parse(text).tagged()
    assert (str(reference), reference.familiar) == (whole, familiar)
    assert names.parse(whole) == names.parse(familiar) == reference


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("", "repository"),
        ("Debian", "lower case"),
        ("a/Debian", "lower case"),
        ("a//b", "repository"),
        ("/a", "repository"),
        ("a/", "repository"),
        ("a:", "tag"),
        ("a:.x", "tag"),
        ("a:" + "x" * 129, "tag"),
        ("a.b:c/d", "registry"),
        ("-x.y/a", "registry"),
        ("a@sha256:12", "digest"),
        ("a@md5:" + "a" * 32, "digest"),
        ("a" * 256, "longer"),
        (HEX, "id"),
        ("a b", "repository"),
        ("a\nb", "repository"),
        ("_a", "repository"),
    ],
)
def test_what_is_no_name(text: str, about: str) -> None:
    with pytest.raises(ImageError, match=about):
        names.parse(text)
