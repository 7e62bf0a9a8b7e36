"""The certificate of a server: its files, what is wrong with them, and how their changes reach the next handshake."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trustme
from certificates import DAY, NOW, Authority, Pair, serial
from loops import on_each_loop

from aquilia.tls import Certificate, Files, TLSError

AUTHORITY = Authority()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "chain.pem", tmp_path / "key.pem")


def written(files: Files, **wanted: object) -> Pair:
    pair = AUTHORITY.issue(**wanted)  # type: ignore[arg-type]
    pair.write(files.chain.parent)
    return pair


@contextlib.asynccontextmanager
async def served(certificate: Certificate) -> AsyncIterator[int]:
    """Echo lines over TLS; the port."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while line := await reader.readline():
                writer.write(line)
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=certificate.context) as server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def connected(
    port: int, name: str = "localhost", context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, ssl.SSLObject]]:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context or AUTHORITY.trusting(), server_hostname=name
        )
        try:
            yield reader, writer, writer.get_extra_info("ssl_object")
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()


async def shown(port: int, name: str = "localhost") -> int:
    async with connected(port, name) as (_, _, connection):
        return serial(connection)


# What is shown


@on_each_loop
async def test_it_is_tls_1_2_or_newer_and_without_compression(files: Files) -> None:
    pair = written(files)
    async with served(Certificate(files)) as port:
        async with connected(port) as (_, _, connection):
            assert connection.version() == "TLSv1.3"
            assert connection.compression() is None
            assert serial(connection) == pair.serial
        old = AUTHORITY.trusting()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        async with connected(port, context=old) as (_, _, connection):
            assert connection.version() == "TLSv1.2"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
@on_each_loop
async def test_tls_1_1_is_refused(files: Files) -> None:
    written(files)
    old = AUTHORITY.trusting()
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    async with served(Certificate(files)) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with connected(port, context=old):
                pass


@on_each_loop
async def test_a_key_may_be_in_the_file_of_the_certificate(files: Files) -> None:
    pair = written(files)
    files.chain.write_bytes(pair.chain + pair.key)

    async with served(Certificate(Files(files.chain))) as port:
        assert await shown(port) == pair.serial


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
@on_each_loop
async def test_the_password_of_a_key_is_in_a_file(files: Files, tmp_path: Path, ending: bytes) -> None:
    pair = written(files)
    files.chain.with_name("key.pem").write_bytes(pair.encrypted(b"pass word"))
    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_bytes(b"pass word" + ending)

    certificate = Certificate(Files(files.chain, files.key, password))

    assert certificate.warnings == []
    async with served(certificate) as port:
        assert await shown(port) == pair.serial


# What is changed


def in_place(folder: Path, pair: Pair) -> None:
    pair.write(folder)


def by_renaming(folder: Path, pair: Pair) -> None:
    pair.write(folder / "new")
    for name in ("key.pem", "chain.pem"):
        (folder / "new" / name).replace(folder / name)


def by_links(folder: Path, pair: Pair) -> None:
    """As Kubernetes does it: files are links into `..data`, a link to a folder that another replaces."""
    name = f"..{pair.serial}"
    pair.write(folder / name)
    (folder / "..tmp").symlink_to(name)
    (folder / "..tmp").replace(folder / "..data")
    for file in ("key.pem", "chain.pem"):
        if not (folder / file).is_symlink():
            (folder / file).unlink(missing_ok=True)
            (folder / file).symlink_to(f"..data/{file}")


@pytest.mark.parametrize("put", [in_place, by_renaming, by_links])
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])  # an address is no server name: none is sent
@on_each_loop
async def test_the_next_handshake_shows_a_changed_certificate_and_open_connections_live_on(
    files: Files, put: Callable[[Path, Pair], None], name: str
) -> None:
    folder = files.chain.parent
    before, after = AUTHORITY.issue(), AUTHORITY.issue()
    put(folder, before)
    certificate = Certificate(files)
    async with served(certificate) as port, connected(port, name) as (reader, writer, connection):
        assert serial(connection) == before.serial

        put(folder, after)
        certificate.look()

        assert await shown(port, name) == after.serial
        writer.write(b"still here\n")
        assert await reader.readline() == b"still here\n"


@on_each_loop
async def test_a_certificate_of_another_kind_of_key_leaves_nothing_of_the_old_one(files: Files) -> None:
    written(files, kind=trustme.KeyType.RSA)
    certificate = Certificate(files)
    only_rsa = AUTHORITY.trusting()
    only_rsa.maximum_version = ssl.TLSVersion.TLSv1_2
    only_rsa.set_ciphers("aRSA")
    async with served(certificate) as port:
        async with connected(port, context=only_rsa):
            pass
        after = written(files)
        certificate.look()

        assert await shown(port) == after.serial
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with connected(port, context=only_rsa):
                pass


@on_each_loop
async def test_a_pair_that_does_not_fit_keeps_the_one_before_and_is_logged_once_until_it_does(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = written(files), AUTHORITY.issue()
    certificate = Certificate(files)
    async with served(certificate) as port:
        files.chain.write_bytes(after.chain)
        for _ in range(3):
            certificate.look()
        assert await shown(port) == before.serial
        assert [record.getMessage() for record in caplog.records] == [
            f"TLS: {files.key} is not the key of {files.chain}; the certificate from before is kept until "
            "this is mended"
        ]

        after.write(files.chain.parent)
        certificate.look()
        assert await shown(port) == after.serial


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
@on_each_loop
async def test_half_a_file_keeps_the_certificate_from_before(files: Files, part: float) -> None:
    before = written(files)
    certificate = Certificate(files)
    async with served(certificate) as port:
        for file, whole in ((files.chain, before.chain), (files.chain.with_name("key.pem"), before.key)):
            other = AUTHORITY.issue()
            content = other.chain if file == files.chain else other.key
            file.write_bytes(content[: int(len(content) * part)])
            certificate.look()
            assert await shown(port) == before.serial
            file.write_bytes(whole)
        files.chain.unlink()
        certificate.look()
        assert await shown(port) == before.serial


def test_files_that_did_not_change_are_not_loaded_again(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    pair = written(files)
    certificate = Certificate(files)
    with caplog.at_level(logging.INFO, "aquilia.tls"):
        pair.write(files.chain.parent)
        certificate.look()
        assert caplog.records == []
        written(files)
        certificate.look()
        assert [record.getMessage() for record in caplog.records] == [
            f"TLS: took up the changed certificate in {files.chain}"
        ]


# What is wrong, and what is doubtful


def broken(files: Files, name: str) -> Files:
    """The files, with one thing wrong."""
    folder, pair = files.chain.parent, written(files)
    password = folder / "password"
    password.write_text("wrong\n")
    key = folder / "key.pem"
    match name:
        case "no certificate":
            files.chain.write_bytes(pair.key)
        case "no key":
            key.write_bytes(pair.chain)
        case "no key beside":
            return Files(files.chain)
        case "another key":
            key.write_bytes(AUTHORITY.issue().key)
        case "another kind of key":
            key.write_bytes(AUTHORITY.issue(kind=trustme.KeyType.RSA).key)
        case "encrypted":
            key.write_bytes(pair.encrypted(b"right"))
        case "wrong password":
            key.write_bytes(pair.encrypted(b"right"))
            return Files(files.chain, key, password)
        case "empty password":
            password.write_text("\n")
            return Files(files.chain, key, password)
        case "half":
            key.write_bytes(pair.key[:-80])
        case "folder":
            return Files(files.chain, folder)
        case "nowhere":
            return Files(folder / "nowhere.pem", key)
    return files


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no certificate", "{chain} holds no certificate in PEM"),
        ("no key", "{key} holds no key in PEM"),
        ("no key beside", "{chain} holds no key in PEM: --ssl-keyfile names the file that does"),
        ("another key", "{key} is not the key of {chain}"),
        ("another kind of key", "{key} is not the key of {chain}"),
        ("encrypted", "{key} is encrypted: --ssl-password-file names the file with its password"),
        ("wrong password", "the password in {folder}/password does not open {key}"),
        ("empty password", "{folder}/password is empty; it holds the password of the key, in one line"),
        ("half", "{chain} and {key} are not a whole certificate and its key (…"),
        ("folder", "{folder} cannot be read: Is a directory"),
        ("nowhere", "there is no file {folder}/nowhere.pem"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(files: Files, name: str, told: str) -> None:
    wrong = broken(files, name)

    with pytest.raises(TLSError) as refused:
        Certificate(wrong)

    told = told.format(chain=files.chain, key=files.key, folder=files.chain.parent)
    assert str(refused.value).startswith(f"TLS: {told.rstrip('…')}")


def test_a_certificate_out_of_its_time_is_warned_of(files: Files) -> None:
    written(files, since=NOW - 9 * DAY, until=NOW - DAY)
    [expired] = Certificate(files).warnings
    assert f"in {files.chain} has expired, on {NOW - DAY:%Y-%m-%d %H:%M} UTC" in expired

    written(files, since=NOW + DAY, until=NOW + 9 * DAY)
    [early] = Certificate(files).warnings
    assert f"in {files.chain} is not valid yet, before {NOW + DAY:%Y-%m-%d %H:%M} UTC" in early


def test_secrets_that_every_user_can_read_are_warned_of(files: Files, tmp_path: Path) -> None:
    pair = written(files)
    password = tmp_path / "password"
    password.write_text("secret")
    password.chmod(0o604)
    key = tmp_path / "key.pem"
    key.write_bytes(pair.encrypted(b"secret"))
    key.chmod(0o644)

    assert Certificate(Files(files.chain, key, password)).warnings == [
        f"every user of this machine can read {file}: chmod 600 keeps it to its owner"
        for file in (key, password)
    ]


def test_a_password_that_nothing_needs_is_warned_of(files: Files, tmp_path: Path) -> None:
    written(files)
    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text("secret")

    assert Certificate(Files(files.chain, files.key, password)).warnings == [
        f"{files.key} is not encrypted, so {password} is not needed"
    ]
