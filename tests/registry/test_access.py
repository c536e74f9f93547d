"""Who may do what: TLS by certs.d, users by htpasswd, tokens of a token server; by docker-registry itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.images import Image, directory, file, image
from tests.registry.conftest import QUICK
from tests.support.flaky import Act, flaky
from tests.support.registries import Running, certificates, needs_registry, serving
from tests.support.stores import put
from tests.support.token_server import Asked, TokenServer, token_server
from unionfs.errors import ImageError, OptionError
from unionfs.image import find, names
from unionfs.image.store import Store
from unionfs.registry import credentials, tls
from unionfs.registry.client import Client
from unionfs.registry.connections import Options, is_loopback
from unionfs.registry.credentials import Credentials
from unionfs.registry.login import login
from unionfs.registry.pull import pull
from unionfs.registry.push import push
from unionfs.registry.replies import RegistryError

pytestmark = [
    needs_registry,
    pytest.mark.skipif(os.geteuid() != 0, reason="layers of these tests have owners"),
]

ONE = image([[directory("etc"), file("etc/a", b"a" * 3000, uid=1)], [file("etc/b", b"b")]], {"Cmd": ["one"]})
USER = Credentials("user", "secret")


def push_one(store: Store, name: str, options: Options = QUICK, made: Image = ONE) -> str:
    put(store, made, name)
    return push(store, find.resolve(store, name), names.parse(name), options).digest


# --- TLS


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates as `certificates` makes them."""
    folder = tmp_path_factory.mktemp("certificates")
    certificates(folder)
    return folder


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, certs: Path) -> Iterator[Running]:
    """A registry that has TLS."""
    http = {"tls": {"certificate": str(certs / "server.crt"), "key": str(certs / "server.key")}}
    with serving(tmp_path_factory.mktemp("secure"), http=http) as running:
        yield running


@pytest.fixture
def trusted(tmp_path: Path, certs: Path) -> Path:
    """A directory with the authority's certificate alone."""
    folder = tmp_path / "trusted"
    folder.mkdir()
    (folder / "ca.crt").write_bytes((certs / "ca.crt").read_bytes())
    return folder


def test_a_certificate_of_a_stranger_is_refused_with_what_to_do(store: Store, secure: Running) -> None:
    with pytest.raises(ImageError) as raised:
        push_one(store, f"{secure.name}/tls")
    assert "its certificate is not trusted" in str(raised.value)
    assert f"/etc/containers/certs.d/{secure.name}/ca.crt" in str(raised.value)
    assert "--cert-dir" in str(raised.value)


def test_a_certificate_is_verified_with_the_directory_that_is_named(
    store: Store, empty: Store, secure: Running, trusted: Path
) -> None:
    options = Options(cert_dir=trusted, schedule=QUICK.schedule)
    push_one(store, f"{secure.name}/named", options)
    assert pull(empty, names.parse(f"{secure.name}/named"), options=options).digest == ONE.digest


def test_certs_d_has_a_directory_for_each_registry(
    store: Store, secure: Running, trusted: Path, home: Path
) -> None:
    folder = home / ".config/containers/certs.d" / secure.name
    folder.parent.mkdir(parents=True)
    folder.symlink_to(trusted)
    assert push_one(store, f"{secure.name}/certsd") == ONE.digest


def test_without_verification_any_certificate_is_taken(store: Store, secure: Running) -> None:
    assert push_one(store, f"{secure.name}/any", Options(tls_verify=False)) == ONE.digest


def test_the_name_in_the_certificate_counts(store: Store, secure: Running, trusted: Path) -> None:
    port = secure.name.partition(":")[2]
    with pytest.raises(ImageError, match="certificate is not trusted"):
        push_one(store, f"localhost:{port}/tls", Options(cert_dir=trusted))


def test_a_client_shows_its_certificate(store: Store, certs: Path, trusted: Path, tmp_path: Path) -> None:
    http = {
        "tls": {
            "certificate": str(certs / "server.crt"),
            "key": str(certs / "server.key"),
            "clientcas": [str(certs / "ca.crt")],
        }
    }
    options = Options(cert_dir=trusted, schedule=QUICK.schedule)
    with serving(tmp_path / "mutual", http=http) as running:
        with pytest.raises(ImageError, match=r"by HTTPS: .*TLS.*\(.*certificate.*\); by HTTP: .* 400"):
            push_one(store, f"{running.name}/mutual", options)
        (trusted / "client.cert").write_bytes((certs / "client.crt").read_bytes())
        with pytest.raises(ImageError, match=r"client.cert: its key client.key is missing"):
            push_one(store, f"{running.name}/mutual", options)
        (trusted / "client.key").write_bytes((certs / "client.key").read_bytes())
        assert push_one(store, f"{running.name}/mutual", options) == ONE.digest


def test_certificates_that_cannot_be_read_are_named(trusted: Path, tmp_path: Path) -> None:
    (trusted / "broken.crt").write_text("-----BEGIN")
    with pytest.raises(ImageError, match=r"broken.crt: cannot be used"):
        tls.context(trusted, verify=True, client=True)
    with pytest.raises(OptionError, match="no such directory"):
        tls.certificates("a.example", tmp_path / "absent")


def test_plain_http_is_for_this_machine_or_where_it_is_asked_for(store: Store, tmp_path: Path) -> None:
    """The address of this machine that is no loopback address."""
    probe = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
    address = next((each for each in probe if "." in each and not is_loopback(each)), None)
    if address is None:
        pytest.skip("this machine has no address but loopback's")
    with serving(tmp_path / "outside", host=address) as running:
        with pytest.raises(ImageError, match="no TLS connection"):
            push_one(store, f"{running.name}/plain")
        assert push_one(store, f"{running.name}/plain", Options(tls_verify=False)) == ONE.digest
        assert not any("/plain/" in each for each in running.requests[:1])


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.8.7", True),
        ("::1", True),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("", False),
    ],
)
def test_loopback_is_told_by_the_name_alone(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


# --- users


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A registry for user with secret."""
    folder = tmp_path_factory.mktemp("users")
    table = subprocess.run(
        ["htpasswd", "-Bbn", "-C", "4", "user", "secret"], capture_output=True, check=True
    ).stdout
    (folder / "htpasswd").write_bytes(table)
    auth = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    with serving(folder, auth=auth) as running:
        yield running


def test_a_registry_with_users(store: Store, empty: Store, users: Running, home: Path) -> None:
    name = f"{users.name}/users"
    with pytest.raises(RegistryError, match=f"answers 401: `pyunionfs login {users.name}`"):
        push_one(store, name)
    for wrong in (Credentials("user", "wrong"), Credentials("other", "secret")):
        with pytest.raises(RegistryError, match="401"):
            login(users.name, wrong, QUICK)
    assert not (home / ".docker").exists(), "what is wrong is not kept"
    assert login(users.name, USER, QUICK) == str(home / ".docker/config.json")
    push_one(store, name)
    assert pull(empty, names.parse(name), options=QUICK).digest == ONE.digest
    assert credentials.erase(users.name) == [str(home / ".docker/config.json")]
    with pytest.raises(RegistryError, match="401"):
        pull(Store(home / "third"), names.parse(name), options=QUICK)


def test_credentials_are_not_for_another_port(store: Store, users: Running, plain: Running) -> None:
    login(users.name, USER, QUICK)
    with flaky(plain.name) as proxy:
        proxy.wish(lambda seen: seen.path == "/v2/", Act(401, {"WWW-Authenticate": 'Basic realm="x"'}), 1)
        push_one(store, f"{proxy.name}/other")
        assert all("authorization" not in each.headers for each in proxy.seen)


# --- tokens


def grant(user: str, kind: str, name: str, action: str) -> bool:
    """Anonymous users pull public/*, the user does all but push to secret/*."""
    if kind != "repository":
        return False
    if user == "":
        return name.startswith("public/") and action == "pull"
    return not (name.startswith("secret/") and action == "push")


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenServer]:
    with token_server(tmp_path / "tokens", grant) as made:
        yield made


@pytest.fixture
def guarded(tmp_path: Path, tokens: TokenServer) -> Iterator[Running]:
    """A registry that believes the token server."""
    with serving(tmp_path / "guarded", auth=tokens.auth) as running:
        yield running


def test_tokens_are_for_what_is_done(
    store: Store, empty: Store, guarded: Running, tokens: TokenServer
) -> None:
    name = f"{guarded.name}/public/one"
    with pytest.raises(RegistryError, match="answers 401"):
        push_one(store, name)
    login(guarded.name, USER, QUICK)
    assert credentials.find(guarded.name) == Credentials("user", identity_token="refresh-user")
    tokens.asked.clear()
    push_one(store, name)
    assert {(each.method, each.user) for each in tokens.asked} == {("POST", "user")}
    assert tokens.asked[0].scopes == ("repository:public/one:pull,push",)
    assert len(tokens.asked) == 1, "one token serves all layers"
    credentials.erase(guarded.name)
    tokens.asked.clear()
    assert pull(empty, names.parse(name), options=QUICK).digest == ONE.digest
    assert tokens.asked == [Asked("GET", "", ("repository:public/one:pull",), False)]


def test_what_a_user_may_not_is_refused(store: Store, guarded: Running) -> None:
    login(guarded.name, USER, QUICK)
    with pytest.raises(RegistryError, match=r"secret/one.*answers 401"):
        push_one(store, f"{guarded.name}/secret/one")
    with pytest.raises(RegistryError, match=r"the user name or the password is wrong: .* answers 401"):
        login(guarded.name, Credentials("user", "wrong"), QUICK)
    assert credentials.find(guarded.name) == Credentials("user", identity_token="refresh-user")


def test_a_mount_asks_for_the_source_as_well(store: Store, guarded: Running, tokens: TokenServer) -> None:
    login(guarded.name, USER, QUICK)
    push_one(store, f"{guarded.name}/public/one")
    tokens.asked.clear()
    push_one(store, f"{guarded.name}/public/two")
    assert {each.scopes for each in tokens.asked} == {
        ("repository:public/two:pull,push",),
        ("repository:public/two:pull,push", "repository:public/one:pull"),
    }
    assert sum("PUT" in each and "/uploads/" in each for each in guarded.requests) == 3, "of the first push"


def test_a_token_that_is_refused_is_asked_for_anew(
    store: Store, empty: Store, guarded: Running, tokens: TokenServer
) -> None:
    login(guarded.name, USER, QUICK)
    push_one(store, f"{guarded.name}/public/one")
    with flaky(guarded.name) as proxy:
        challenge = f'Bearer realm="{tokens.realm}",service="{"the tests" + chr(39) + " registry"}"'
        proxy.wish(lambda seen: "/blobs/" in seen.path, Act(401, {"WWW-Authenticate": challenge}), 1)
        tokens.asked.clear()
        assert pull(empty, names.parse(f"{proxy.name}/public/one"), options=QUICK).digest == ONE.digest
        assert len(tokens.asked) == 2


def test_a_token_server_without_tls_is_for_this_machine_only(plain: Running) -> None:
    with flaky(plain.name) as proxy:
        challenge = {"WWW-Authenticate": 'Bearer realm="http://auth.example/token"'}
        proxy.wish(lambda seen: True, Act(401, challenge))
        with pytest.raises(ImageError, match=r"its token server auth.example has no HTTPS"):
            Client(proxy.name, QUICK, USER).log_in()
