"""TLS and logins of the NATS adapter, against real servers: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import nkeys
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from nats_server import NatsServer

from aquilia.aquilary import BootError
from aquilia.sockets import AquilaSockets, Publication, Socket, SocketController, SocketFault
from aquilia.sockets.adapters.nats import NatsAdapter

SECRET = "s3cret-and-long"


@Socket("/hall")
class Hall(SocketController):
    """Somewhere to be."""


async def works(url: str) -> None:
    """A publication arrives, and a value is kept."""
    adapter = NatsAdapter(url)
    got: asyncio.Queue[Publication] = asyncio.Queue()
    await adapter.broker.start(got.put_nowait)
    try:
        await adapter.broker.subscribe("/a", "r")
        told = Publication(id="1", namespace="/a", event="e", payload=1, ts=1, room="r")
        await adapter.broker.publish(told)
        assert await asyncio.wait_for(got.get(), 5) == told
    finally:
        await adapter.broker.stop()


async def refusal(url: str) -> str:
    """Why it does not start."""
    adapter = NatsAdapter(url)
    with pytest.raises(SocketFault) as refused:
        await adapter.broker.start(lambda publication: None)
    assert refused.value.code == "WS_ADAPTER_UNAVAILABLE"
    assert SECRET not in refused.value.message
    return refused.value.message


def at_boot(url: str) -> str:
    """Why an application with this URL is not even made."""
    with pytest.raises(BootError) as refused:
        AquilaSockets.from_controllers([Hall], adapter="nats", adapter_url=url)
    assert SECRET not in str(refused.value)
    return str(refused.value)


async def at_start(url: str) -> str:
    """Why an application with this URL can be made, and not started."""
    app = AquilaSockets.from_controllers([Hall], adapter="nats", adapter_url=url)
    with pytest.raises(SocketFault) as refused:
        await app.startup()
    await app.services.aclose()
    assert SECRET not in refused.value.message
    return refused.value.message


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    servers: list[NatsServer] = []

    def start(*options: object) -> NatsServer:
        servers.append(NatsServer(tmp_path / f"server{len(servers)}", *map(str, options)))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


# TLS


class Papers:
    """A CA, and files signed by it."""

    def __init__(self, folder: Path, name: str = "localhost") -> None:
        ca, self.folder = trustme.CA(), folder
        folder.mkdir()
        self.ca = folder / "ca.pem"
        ca.cert_pem.write_to_path(self.ca)
        self.server, self.server_key = self._files("server", ca.issue_cert(name))
        self.client, self.client_key = self._files("client", ca.issue_cert("app@example.org"))

    def _files(self, name: str, issued: trustme.LeafCert) -> tuple[Path, Path]:
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(cert)
        issued.private_key_pem.write_to_path(key)
        return cert, key

    def options(self) -> list[object]:
        return ["--tls", "--tlscert", self.server, "--tlskey", self.server_key]


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path / "papers")


@pytest.fixture
def others(tmp_path: Path) -> Papers:
    return Papers(tmp_path / "others")


def url(
    server: NatsServer, scheme: str = "tls", login: str = "", host: str = "localhost", **files: Path
) -> str:
    query = "&".join(f"{name}={file}" for name, file in files.items())
    return f"{scheme}://{login}{host}:{server.port}/app?{query}"


async def test_a_server_whose_certificate_the_named_ca_signed_is_trusted_and_no_other(
    serve: Callable[..., NatsServer], papers: Papers, others: Papers, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(*papers.options())
    await works(url(server, ca=papers.ca))
    assert caplog.messages == []
    told = await refusal(url(server, ca=others.ca))
    assert f"its certificate is signed by no CA in {others.ca} (ca={others.ca})" in told
    assert "name the file of its CA, as in ?ca=FILE" in await refusal(url(server))
    assert "write tls://…?ca=FILE" in await refusal(url(server, scheme="nats"))


async def test_a_certificate_for_another_name_is_told_with_the_name_that_was_asked_for(
    serve: Callable[..., NatsServer], papers: Papers
) -> None:
    told = await refusal(url(serve(*papers.options()), host="127.0.0.1", ca=papers.ca))
    assert "its certificate is for another name" in told
    assert "127.0.0.1" in told
    assert "write in the URL the name that it has" in told


async def test_a_server_may_ask_for_a_certificate_of_its_clients(
    serve: Callable[..., NatsServer], papers: Papers, others: Papers
) -> None:
    server = serve(*papers.options(), "--tlsverify", "--tlscacert", papers.ca)
    await works(url(server, ca=papers.ca, cert=papers.client, key=papers.client_key))
    assert "as in tls://host?cert=FILE&key=FILE" in await refusal(url(server, ca=papers.ca))
    told = await refusal(url(server, ca=papers.ca, cert=others.client, key=others.client_key))
    assert f"does not accept the certificate in {others.client} (cert={others.client})" in told


async def test_certificate_and_key_may_be_one_file(serve: Callable[..., NatsServer], papers: Papers) -> None:
    both = papers.folder / "both.pem"
    both.write_bytes(papers.client_key.read_bytes() + papers.client.read_bytes())
    server = serve(*papers.options(), "--tlsverify", "--tlscacert", papers.ca)
    await works(url(server, ca=papers.ca, cert=both))


async def test_to_a_server_without_tls_nothing_is_said() -> None:
    """Whoever sits in between may take the word TLS out of the greeting, and would be given the password."""
    said: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b'INFO {"server_id":"x","version":"2.11.0","max_payload":1048576,"auth_required":true}\r\n'
        )
        said.set_result(await reader.read())
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        told = await refusal(f"tls://ada:{SECRET}@127.0.0.1:{port}")
        assert "say nats:// in the place of tls://" in told
        assert await asyncio.wait_for(said, 5) == b""


async def test_a_server_that_leaves_tls_to_its_clients_is_spoken_to_in_tls(
    serve: Callable[..., NatsServer], papers: Papers, tmp_path: Path
) -> None:
    configuration = tmp_path / "nats.conf"
    configuration.write_text(
        f'tls {{ cert_file: "{papers.server}", key_file: "{papers.server_key}" }}\nallow_non_tls: true\n'
    )
    server = serve("-c", configuration)
    await works(url(server, ca=papers.ca))
    assert "signed by no CA" in await refusal(url(server))


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("ca={0}/none.pem", "ca={0}/none.pem: the file cannot be read: No such file or directory"),
        ("ca={0}", "ca={0}: the file cannot be read: Is a directory"),
        ("ca={0}/server.key", "ca={0}/server.key: the file has no certificate of a CA in PEM"),
        ("cert={0}/client.pem", "key={0}/client.pem: the file has no private key in PEM; name the one"),
        ("cert={0}/client.pem&key={0}/server.key", "it is not the key of the certificate in {0}/client.pem"),
        ("cert={0}/none.pem&key={0}/client.key", "cert={0}/none.pem: the file cannot be read"),
        ("cert={0}/locked.pem", "key={0}/locked.pem: the key is encrypted; one without a password is needed"),
        ("cert={0}/client.key", "cert={0}/client.key: no certificate and key in PEM"),
    ],
)
async def test_a_file_for_tls_that_cannot_be_used_is_refused_at_the_start(
    papers: Papers, query: str, told: str
) -> None:
    key = serialization.load_pem_private_key(papers.client_key.read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    (papers.folder / "locked.pem").write_bytes(papers.client.read_bytes() + locked)
    assert told.format(papers.folder) in await at_start(f"tls://h?{query.format(papers.folder)}")


# Logins


async def test_a_password_comes_from_a_file_which_may_change(
    serve: Callable[..., NatsServer], tmp_path: Path
) -> None:
    server = serve("--user", "ada", "--pass", SECRET)
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    await works(url(server, "nats", "ada@", password_file=file))
    adapter = NatsAdapter(url(server, "nats", "ada@", password_file=file))
    file.write_text("another")
    with pytest.raises(SocketFault, match=f"that in {file} .* is not accepted"):
        await adapter.broker.start(lambda publication: None)
    file.write_text(SECRET)
    await adapter.broker.start(lambda publication: None)
    await adapter.broker.stop()


async def test_a_login_that_is_refused_after_an_outage_is_told_once_and_read_again(
    serve: Callable[..., NatsServer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configuration, file = tmp_path / "nats.conf", tmp_path / "password"

    def accept(password: str) -> None:
        configuration.write_text(f"authorization {{ user: ada, password: {password} }}\n")

    accept("former")
    server = serve("-c", configuration)
    file.write_text("former")
    adapter = NatsAdapter(url(server, "nats", "ada@", host="127.0.0.1", password_file=file))
    await adapter.broker.start(lambda publication: None)
    server.kill()
    accept(SECRET)
    server.start()

    async def until(done: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not done():
                await asyncio.sleep(0.02)

    refused = f"refuses the login: that in {file} (password_file={file}) is not accepted"
    await until(lambda: refused in caplog.text)
    file.write_text(SECRET)
    await until(lambda: adapter.broker.connected)
    await adapter.broker.stop()
    assert caplog.text.count(refused) == 1
    assert SECRET not in caplog.text


async def test_a_token_comes_from_a_file(serve: Callable[..., NatsServer], tmp_path: Path) -> None:
    server = serve("--auth", SECRET)
    file = tmp_path / "token"
    file.write_text(SECRET)
    await works(url(server, "nats", token_file=file))
    assert "refuses the login: give user and password, or the token" in await refusal(url(server, "nats"))


def keys(kind: int) -> tuple[str, str]:
    """A seed, and what is public of it, as NATS writes them."""
    seed = nkeys.encode_seed(secrets.token_bytes(32), kind)
    return bytes(seed).decode(), bytes(nkeys.from_seed(bytearray(seed)).public_key).decode()


async def test_a_key_of_nats_logs_in_by_its_seed(serve: Callable[..., NatsServer], tmp_path: Path) -> None:
    seed, public = keys(nkeys.PREFIX_BYTE_USER)
    configuration, file = tmp_path / "nats.conf", tmp_path / "ada.nk"
    configuration.write_text(f"authorization {{ users: [ {{ nkey: {public} }} ] }}\n")
    server = serve("-c", configuration)
    file.write_text(seed + "\n")
    await works(url(server, "nats", nkey=file))
    stranger, _ = keys(nkeys.PREFIX_BYTE_USER)
    file.write_text(stranger)
    told = await refusal(url(server, "nats", nkey=file))
    assert f"refuses the login: that in {file} (nkey={file}) is not accepted" in told
    assert stranger not in told


def jwt(seed: str, subject: str, claims: dict[str, object]) -> str:
    """A JWT of NATS, signed by an operator or an account."""

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    pair = nkeys.from_seed(bytearray(seed.encode()))
    body = {
        "jti": secrets.token_hex(8),
        "iat": 1_700_000_000,
        "iss": bytes(pair.public_key).decode(),
        "name": "x",
    }
    body |= {"sub": subject, "nats": {"version": 2, **claims}}
    head = {"typ": "JWT", "alg": "ed25519-nkey"}
    text = ".".join(encoded(json.dumps(part).encode()) for part in (head, body))
    return f"{text}.{encoded(pair.sign(text.encode()))}"


async def test_credentials_of_an_account_log_in(serve: Callable[..., NatsServer], tmp_path: Path) -> None:
    operator, operator_id = keys(nkeys.PREFIX_BYTE_OPERATOR)
    account, account_id = keys(nkeys.PREFIX_BYTE_ACCOUNT)
    _, system_id = keys(nkeys.PREFIX_BYTE_ACCOUNT)
    user, user_id = keys(nkeys.PREFIX_BYTE_USER)
    names = (
        "subs",
        "data",
        "payload",
        "imports",
        "exports",
        "conn",
        "leaf",
        "mem_storage",
        "disk_storage",
        "streams",
    )
    limits: dict[str, object] = {**dict.fromkeys((*names, "consumer"), -1), "wildcards": True}
    accounts = {
        account_id: jwt(operator, account_id, {"type": "account", "limits": limits}),
        system_id: jwt(
            operator,
            system_id,
            {"type": "account", "limits": {**limits, "disk_storage": 0, "mem_storage": 0}},
        ),
    }
    configuration, file = tmp_path / "nats.conf", tmp_path / "ada.creds"
    configuration.write_text(
        f"operator: {jwt(operator, operator_id, {'type': 'operator'})}\n"
        f"system_account: {system_id}\nresolver: MEMORY\n"
        f"resolver_preload: {json.dumps(accounts)}\n"
    )
    server = serve("-c", configuration)
    allowed = jwt(account, user_id, {"type": "user", "subs": -1, "data": -1, "payload": -1})
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{allowed}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user}\n------END USER NKEY SEED------\n"
    )
    await works(url(server, "nats", creds=file))
    file.write_text(file.read_text().replace(user, keys(nkeys.PREFIX_BYTE_USER)[0]))
    assert f"that in {file} (creds={file}) is not accepted" in await refusal(url(server, "nats", creds=file))


@pytest.mark.parametrize(
    ("login", "option", "content", "told"),
    [
        ("", "creds", SECRET, "has no JWT of a NATS user"),
        ("", "creds", f"-----BEGIN NATS USER JWT-----\n{SECRET}\n", "has no seed of a user"),
        ("", "nkey", SECRET, "has no seed of a user in it, which begins with SU"),
        ("", "token_file", "", "one line is needed"),
        ("", "token_file", f"{SECRET}\n{SECRET}\n", "one line is needed"),
        ("ada@", "password_file", None, "the file cannot be read: No such file"),
    ],
)
async def test_a_login_that_cannot_be_used_is_refused_at_the_start(
    tmp_path: Path, login: str, option: str, content: str | None, told: str
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_text(content)
    assert told in await at_start(f"nats://{login}h?{option}={file}")


@pytest.mark.parametrize(
    ("login", "option", "told"),
    [
        ("", "password_file", "needs a user, without a password: nats://user@host"),
        (f"ada:{SECRET}@", "password_file", "needs a user, without a password"),
        (f"{SECRET}@", "nkey", "the option nkey is a login, and another stands before the host"),
    ],
)
def test_a_login_that_cannot_be_meant_is_refused_at_boot(login: str, option: str, told: str) -> None:
    assert told in at_boot(f"nats://{login}h?{option}=file")
