"""What a URL of the Redis adapter says, which are refused and in which words, and the files that it names."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from aquilia.sockets.adapters.redis.login import login_of
from aquilia.sockets.adapters.redis.url import Target

MARK = "Zq7"
"""It begins and ends each secret that is made up, and stands nowhere else."""


@pytest.mark.parametrize(
    ("url", "target"),
    [
        pytest.param("redis://a", Target("single", (("a", 6379),)), id="one-host"),
        pytest.param("redis://a:1/2", Target("single", (("a", 1),), db=2), id="port-and-database"),
        pytest.param("redis://[::1]:7/", Target("single", (("[::1]", 7),)), id="ipv6"),
        pytest.param("rediss://a", Target("single", (("a", 6379),), True), id="tls"),
        pytest.param("redis://:pw@a", Target("single", (("a", 6379),), password="pw"), id="password-alone"),
        pytest.param(
            "redis://ada:pw@a",
            Target("single", (("a", 6379),), user="ada", password="pw"),
            id="user-and-password",
        ),
        pytest.param(
            "redis://a%3Ab:p%25%2F%40%3F:@a",
            Target("single", (("a", 6379),), user="a:b", password="p%/@?:"),
            id="any-character-in-a-login",
        ),
        pytest.param(
            "redis://a?prefix=hall&replicas=2",
            Target("single", (("a", 6379),), prefix="hall", replicas=2),
            id="prefix-and-replicas",
        ),
        pytest.param(
            "redis+cluster://a,b:7000", Target("cluster", (("a", 6379), ("b", 7000))), id="hosts-of-a-cluster"
        ),
        pytest.param("rediss+cluster://a/0", Target("cluster", (("a", 6379),), True), id="cluster-with-tls"),
        pytest.param(
            "redis+sentinel://:pw@a,b:1/3?service=main",
            Target("sentinel", (("a", 26379), ("b", 1)), password="pw", db=3, service="main"),
            id="sentinels",
        ),
        pytest.param(
            "rediss+sentinel://a?service=main&sentinel_user=eve&sentinel_password_file=/s",
            Target(
                "sentinel",
                (("a", 26379),),
                True,
                service="main",
                sentinel_user="eve",
                files={"sentinel_password_file": Path("/s")},
            ),
            id="login-at-sentinels",
        ),
        pytest.param(
            "rediss://ada@a?ca=/x+y/%26%20z&cert=/c&key=/k&password_file=/p",
            Target(
                "single",
                (("a", 6379),),
                True,
                user="ada",
                files={
                    "ca": Path("/x+y/& z"),
                    "cert": Path("/c"),
                    "key": Path("/k"),
                    "password_file": Path("/p"),
                },
            ),
            id="files",
        ),
    ],
)
def test_a_url_says_what_it_says(url: str, target: Target) -> None:
    assert Target.parse(url) == target


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nats://a", r"it begins with redis://, rediss://, .* or rediss\+sentinel://"),
        ("redis", "it begins with redis://"),
        ("unix:///run/redis.sock", r"a Unix socket is not accepted: .* redis://127\.0\.0\.1:6379"),
        ("redis://unix:///run/redis.sock", "a Unix socket is not accepted"),
        ("redis:///run/redis.sock", "a Unix socket is not accepted"),
        ("redis://", r"there is no host\[:port\]"),
        ("redis+cluster://a,,b", r"there is no host\[:port\]"),
        ("redis://a:0", "from 1 to 65535"),
        ("redis://::1", r"an IPv6 address is written in brackets, as in redis://\[::1\]:6379"),
        ("redis+sentinel://::1?service=m", r"as in redis\+sentinel://\[::1\]:26379"),
        ("redis://a,b", r"one host, and 2 are named: .* redis\+cluster://, and sentinels redis\+sentinel://"),
        ("rediss://a,b", r"rediss\+cluster://"),
        ("redis+cluster://a,b,a:6379", "a:6379 is named twice"),
        ("redis+cluster://a,redis+cluster://b", r"redis\+cluster:// is written once"),
        (
            "redis://a/hall",
            "the number of a database is accepted, as in redis://host/1; .* the option prefix",
        ),
        ("redis://a/-1", "the number of a database"),
        ("redis://a/1/2", "the number of a database"),
        ("redis://a/4294967296", "the number of a database"),
        ("redis+cluster://a/1", "a cluster has the database 0 alone"),
        ("redis://a?prefx=x", "unknown option 'prefx'; did you mean prefix?"),
        ("redis://a?password=x", "unknown option 'password'; did you mean password_file?"),
        ("redis://a?prefix=x&prefix=y", "the option prefix is said twice"),
        ("redis://a?prefix=", "the option prefix is empty"),
        ("redis://a?prefix=a.b", r"the option prefix is 'a\.b': .* redis://host\?prefix=my-app"),
        ("redis://a?replicas=6", "replicas: a number from 0 to 5 is needed"),
        ("redis://a?replicas=-1", "replicas: a number from 0 to 5 is needed"),
        ("redis://a?service=m", r"the option service is for sentinels: redis\+sentinel://host,host"),
        (
            "rediss+cluster://a?sentinel_user=m",
            r"the option sentinel_user is for sentinels: rediss\+sentinel://",
        ),
        ("redis://a?sentinel_password_file=m", "the option sentinel_password_file is for sentinels"),
        ("redis+sentinel://a", "the option service is needed: .* service=mymaster"),
        ("redis+sentinel://a?service=a%20b", "a name without spaces is needed"),
        (
            "redis+sentinel://a?service=m&sentinel_user=eve",
            "sentinel_user needs a password: .* sentinel_password_f",
        ),
        ("redis://a?ca=/x", "the option ca is for TLS: write rediss:// in the place of redis://"),
        ("redis+cluster://a?cert=/x", r"write rediss\+cluster:// in the place of redis\+cluster://"),
        ("rediss://a?key=/x", "the option key belongs to a certificate"),
        ("redis://ada@a", "a user without a password: .* password_file=FILE; .* written :password@host"),
        ("redis://ada:@a", "there is no password behind the colon"),
        ("redis://:@a", "there is no password behind the colon"),
        ("redis://@a", "there is no login before the @"),
        ("redis://:pw@a?password_file=/x", "password_file is a password, and another stands before the host"),
        ("redis://ada:b@c@a", "one login is accepted, .* write / as %2F in it, and @ as %40"),
        ("redis://ada:b/c@a", "one login is accepted"),
        ("redis://ada:b?c@a", r"write \? as %3F"),
    ],
)
def test_a_wrong_url_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Target.parse(url)


FORMS = (
    "redis://:{}@host",
    "redis://ada:{}@host/2",
    "redis://{}@host",
    "redis://{}:pw@host",
    "redis://{}",
    "redis://:{}",
    "rediss://ada:{}",
    "redis://ada:{}@host?replicas=9",
    "redis://ada:{}@host?password_file=/nowhere",
    "redis://ada:{}@/run/redis.sock",
    "redis+cluster://ada:{}@a,a",
    "redis+cluster://ada:{}@a,b/1",
    "redis+sentinel://ada:{}@a,b?service=m",
    "redis+sentinel://ada:{}@a,b?service=m&sentinel_user=eve",
    "redis://a?password={}",
    "unix://:{}@host",
    "{}",
)


@given(
    form=st.sampled_from(FORMS),
    inside=st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("@/?:,#%&=[] "), max_size=20),
)
def test_no_password_is_ever_shown(form: str, inside: str) -> None:
    url = form.replace("{}", f"{MARK}{inside}{MARK}")
    try:
        target = Target.parse(url)
    except ValueError as error:
        assert MARK not in str(error)
        return
    # Only what stands where a host should, and is one by every rule, is taken for it.
    assert MARK not in repr(target) or form == "redis://{}"
    assert MARK not in str(target) or form == "redis://{}"


def test_a_target_shows_its_hosts_and_no_login() -> None:
    assert str(Target.parse("redis://ada:s3cret@a/3?prefix=p")) == "redis://a:6379"
    assert str(Target.parse("rediss+cluster://:s3cret@a,[::1]:7")) == "rediss+cluster://a:6379,[::1]:7"


def test_the_login_of_the_url_is_the_login() -> None:
    login = login_of(Target.parse("redis://ada:s3cret@a"))
    assert login[:4] == ("ada", "s3cret", None, None)
    assert login.context is None
    assert "s3cret" not in repr(login)
    assert "s3cret" not in f"{login}"


def test_passwords_in_files_are_read_anew(tmp_path: Path) -> None:
    server, sentinels = tmp_path / "server", tmp_path / "sentinels"
    server.write_text("one\n")
    sentinels.write_text("two\n")
    target = Target.parse(
        f"redis+sentinel://ada@a?service=m&password_file={server}"
        f"&sentinel_user=eve&sentinel_password_file={sentinels}"
    )
    assert login_of(target)[:4] == ("ada", "one", "eve", "two")
    server.write_text("three")
    assert login_of(target)[:4] == ("ada", "three", "eve", "two")


def test_the_default_user_may_have_its_password_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("one\n")
    assert login_of(Target.parse(f"redis://a?password_file={tmp_path}/password"))[:2] == (None, "one")


@pytest.mark.parametrize("option", ["password_file", "sentinel_password_file"])
def test_a_file_without_a_password_is_told_by_its_option(tmp_path: Path, option: str) -> None:
    file = tmp_path / "file"
    target = Target.parse(f"redis+sentinel://a?service=m&{option}={file}")
    with pytest.raises(ValueError, match=f"{option}={file}: the file cannot be read"):
        login_of(target)
    file.write_text("s3cret\nand more\n")
    with pytest.raises(ValueError, match=f"{option}={file}: one line is needed") as refused:
        login_of(target)
    assert "s3cret" not in str(refused.value)


def test_tls_verifies_by_the_named_ca(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("me").private_key_and_cert_chain_pem.write_to_path(tmp_path / "me.pem")
    context = login_of(Target.parse(f"rediss://a?ca={tmp_path}/ca.pem&cert={tmp_path}/me.pem")).context
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) == 1


def test_a_wrong_file_for_tls_is_told_by_its_option(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ValueError, match=f"ca={tmp_path}/ca.pem: the file has no certificate of a CA"):
        login_of(Target.parse(f"rediss://a?ca={tmp_path}/ca.pem"))
