"""Which adapter an application has: its settings, and the environment's URL over them."""

from __future__ import annotations

import pytest
from nats_server import NatsServer
from shared_hall import application, heard

from aquilia.aquilary import BootError


async def test_two_applications_at_one_nats_are_one_hall(nats_server: NatsServer) -> None:
    url = nats_server.url()
    assert await heard(application(adapter="nats", adapter_url=url), application(adapter_url=url)) == "hello"


async def test_the_environment_wins_over_the_settings(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQ_WS_ADAPTER_URL", nats_server.url())
    assert await heard(application(adapter="inmemory"), application()) == "hello"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nat://ada:s3cret@h", "did you mean nats://"),
        ("redis://", "redis:// is planned"),
        ("s3cret", "an URL is needed: memory://, local://"),
        ("memory://s3cret", "followed by nothing"),
        ("mybus://ada:s3cret@h", "none of memory://"),
        ("local://folder", "local:///path/to/folder"),
        ("local://?sync=never", "?sync=always"),
        ("local:///f?size=1", "unknown option 'size' (accepted: sync)"),
        ("local:///f?snyc=always", "did you mean sync?"),
        ("nats://ada:s3cret@h:x", "host"),
        ("nats://ada:s3/cret@h", "%2F"),
        ("nats://h?replica=3", "replicas"),
    ],
)
def test_a_wrong_url_in_the_environment_is_refused_at_boot(
    url: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQ_WS_ADAPTER_URL", url)
    with pytest.raises(BootError) as refused:
        application()
    assert "AQ_WS_ADAPTER_URL" in str(refused.value)
    assert told in str(refused.value)
    assert "cret" not in str(refused.value)


def test_an_adapter_and_an_url_that_disagree_are_refused() -> None:
    with pytest.raises(BootError) as refused:
        application(adapter="inmemory", adapter_url="nats://ada:s3cret@h")
    assert "adapter_url: it is that of 'nats', and adapter says 'inmemory'" in str(refused.value)
    assert "s3cret" not in str(refused.value)
