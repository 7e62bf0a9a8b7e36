"""`deploy/`: what can be known of it without Docker and Kubernetes, on real servers where there are some."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml
from certificates import Authority
from nats_server import NatsServer
from proxies import executable
from typer.main import get_command
from workspaces import TIMEOUT, Workspace

from aquilia import server
from aquilia.cli import app
from aquilia.sockets import drain
from aquilia.sockets.adapters.nats.url import Target

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
SECRET = "s3cr3t-" * 8
NODE = COMPOSE["services"]["one"]
MANIFEST = """
from aquilia.manifest import AppManifest
from controllers import EchoSocket, Page

manifest = AppManifest("echo", controllers=[Page, EchoSocket], websockets={"health": True, "admin": True})
"""


def instruction(name: str) -> list[str]:
    """The words of an instruction of the Dockerfile in its exec form."""
    (words,) = re.findall(rf"^{name} (?:.* CMD )?(\[.*\])$", DOCKERFILE, re.MULTILINE)
    return json.loads(words)


def kubernetes(kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in OBJECTS if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pod(kind: str, name: str) -> dict[str, Any]:
    return kubernetes(kind, name)["spec"]["template"]["spec"]


def container(kind: str, name: str) -> dict[str, Any]:
    (found,) = pod(kind, name)["containers"]
    return found


def variables(of: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in of["env"] if "value" in each}


ARGUMENTS = {
    "Dockerfile": instruction("CMD"),
    "compose.yaml": NODE["command"],
    "kubernetes.yaml": container("Deployment", "aquilia")["args"],
}
URLS = {
    "compose.yaml": NODE["environment"]["AQ_WS_ADAPTER_URL"],
    "kubernetes.yaml": variables(container("Deployment", "aquilia"))["AQ_WS_ADAPTER_URL"],
}


def served(arguments: list[str]) -> dict[str, Any]:
    """How `aq serve` reads its arguments; it refuses those that it does not know."""
    words = instruction("ENTRYPOINT")
    assert words[:2] == ["aq", "serve"]
    command = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return command.make_context("serve", [*words[2:], *arguments]).params


# What it names exists


@pytest.mark.parametrize("file", ARGUMENTS)
def test_aq_serve_takes_the_arguments(file: str) -> None:
    read = served(ARGUMENTS[file])
    assert (read["host"], read["port"], read["log_format"]) == ("0.0.0.0", 8000, "json")


@pytest.mark.parametrize("file", sorted(DEPLOY.iterdir()), ids=lambda file: file.name)
def test_every_variable_is_one_that_is_read(file: Path) -> None:
    code = "\n".join(source.read_text() for source in (ROOT / "aquilia").rglob("*.py"))
    assert set(re.findall(r"\bAQ_[A-Z_]+", file.read_text())) <= set(re.findall(r'"(AQ_[A-Z_]+)"', code))


@pytest.mark.parametrize("file", URLS)
def test_the_broker_is_at_its_url(file: str) -> None:
    target = Target.parse(URLS[file])
    nats = kubernetes("StatefulSet", "nats")
    hosts = {
        "compose.yaml": ["nats"],
        "kubernetes.yaml": [f"nats-{number}.{nats['spec']['serviceName']}" for number in range(3)],
    }[file]
    assert [server.split("//")[1] for server in target.servers] == [f"{host}:4222" for host in hosts]
    assert (target.user, target.replicas) == ("aquilia", len(hosts))


def test_secrets_are_files_that_are_mounted() -> None:
    names = set(COMPOSE["secrets"])
    in_files = [value for key, value in NODE["environment"].items() if key.endswith("_FILE")]
    assert {Path(file).name for file in in_files} < set(NODE["secrets"]) == names
    told = (DEPLOY / "compose.yaml").read_text()
    assert f"for name in {' '.join(COMPOSE['secrets'])};" in told

    made = set(re.findall(r"--from-literal=([\w-]+)=", (DEPLOY / "kubernetes.yaml").read_text()))
    node = container("Deployment", "aquilia")
    (mount,) = [each for each in node["volumeMounts"] if each["name"] == "secrets"]
    used = re.findall(rf"{mount['mountPath']}/([\w-]+)", " ".join(variables(node).values()))
    assert set(used) == made


# Kubernetes


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("each", OBJECTS, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_an_object_is_what_kubernetes_takes(each: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("each", OBJECTS, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_what_selects_pods_finds_some(each: dict[str, Any]) -> None:
    spec = each.get("spec", {})
    selector = spec.get("selector") or spec.get("podSelector")
    if each["kind"] in ("Ingress", "ConfigMap"):
        assert selector is None
        return
    labels = [
        other["spec"]["template"]["metadata"]["labels"]
        for other in OBJECTS
        if other["kind"] in ("Deployment", "StatefulSet")
    ]
    assert selector.get("matchLabels", selector) in labels


def test_there_is_time_to_leave() -> None:
    delay = served(ARGUMENTS["kubernetes.yaml"])["drain_delay"]
    needed = delay + drain.SHUTDOWN_GRACE + server.GRACE
    assert pod("Deployment", "aquilia")["terminationGracePeriodSeconds"] > needed
    assert int(NODE["stop_grace_period"].removesuffix("s")) > needed
    # Until then nobody is sent there any more: the probe has failed.
    probe = container("Deployment", "aquilia")["readinessProbe"]
    assert delay > probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]


# Real servers


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    for name in (*COMPOSE["secrets"], "password"):
        (folder / name).write_text(f"{SECRET}\n")
    return folder


def in_shell(command: list[str], *arguments: str, changes: dict[str, str], **variables: str) -> str:
    """Run a command of a container with further words at its end; what it says."""
    script = command[-1].replace("$$", "$")
    for old, new in changes.items():
        assert old in script
        script = script.replace(old, new)
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    done = subprocess.run(
        [*command[:-1], " ".join([script, *arguments])],
        env={**os.environ, "PATH": path, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("password", [SECRET, "0123456789" * 4, "-" + "x" * 40])
@pytest.mark.parametrize("where", ["compose.yaml", "kubernetes.yaml"])
def test_nats_takes_its_configuration(where: str, password: str, secrets: Path, tmp_path: Path) -> None:
    if where == "compose.yaml":
        text = (DEPLOY / "nats.conf").read_text()
        command, mounted = COMPOSE["services"]["nats"]["command"], "/run/secrets/"
        (secrets / "nats_password").write_text(password)
    else:
        text = kubernetes("ConfigMap", "nats")["data"]["nats.conf"]
        command, mounted = container("StatefulSet", "nats")["command"], "/run/secrets/nats/"
        (secrets / "password").write_text(password)
    (tmp_path / "nats.conf").write_text(text.replace("/data", str(tmp_path)))
    changes = {mounted: f"{secrets}/", "/etc/nats": str(tmp_path)}
    assert "is valid" in in_shell(command, "-t", changes=changes, POD_NAME="nats-0")


def test_nginx_takes_its_configuration_with_the_nodes_put_in(tmp_path: Path) -> None:
    Authority().issue().write(tmp_path)
    nginx = executable("nginx")
    text = (DEPLOY / "nginx.conf").read_text()
    (tmp_path / "nginx.conf").write_text(
        text.replace("/etc/ssl/aquilia", str(tmp_path))
        .replace("/var/log/nginx", str(tmp_path))
        .replace("/run/nginx.pid", str(tmp_path / "pid"))
    )
    command = COMPOSE["services"]["proxy"]["command"]
    here = {
        "/etc/aquilia": str(tmp_path),
        "/tmp/nginx.conf": str(tmp_path / "changed.conf"),
        "exec nginx": f"{nginx} -t",
        "one:8000": "127.0.0.1:8001",
        "two:8000": "127.0.0.1:8002",
    }
    assert "is successful" in in_shell(command, changes=here, AQUILIA_HOST="chat.example.org")
    changed = (tmp_path / "changed.conf").read_text()
    assert "server 127.0.0.1:8001; server 127.0.0.1:8002;" in changed
    assert "server_name chat.example.org;" in changed


async def test_a_node_serves_as_it_is_started_there_and_answers_its_probes(
    compiled: Workspace, secrets: Path, tmp_path: Path
) -> None:
    (tmp_path / "nats.conf").write_text(
        re.sub("^http:.*|^port:.*", "", (DEPLOY / "nats.conf").read_text(), flags=re.MULTILINE)
        .replace("/data", str(tmp_path / "store"))
        .replace("$NATS_PASSWORD", f'"{SECRET}"')
    )
    nats = NatsServer(tmp_path, "-c", str(tmp_path / "nats.conf"), jetstream=False)
    compiled.write("modules/echo/manifest.py", MANIFEST)
    for name, value in NODE["environment"].items():
        here = value.replace("/run/secrets/", f"{secrets}/").replace("@nats:4222", f"@127.0.0.1:{nats.port}")
        compiled.environment[name] = here
    compiled.compile()
    try:
        async with compiled.serving(*ARGUMENTS["compose.yaml"]) as node:
            async with httpx.AsyncClient(trust_env=False, base_url=node.url) as http:
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    asked = container("Deployment", "aquilia")[probe]["httpGet"]
                    assert (await http.get(asked["path"])).status_code == 200
                admin = {"Authorization": f"Bearer {SECRET}"}
                nodes = (await http.get("/_aquilia/admin/nodes", headers=admin)).json()
                assert len(nodes["items"]) == 1
            check = " ".join(instruction("HEALTHCHECK")[2:]).replace("8000", node.url.rpartition(":")[2])
            await asyncio.to_thread(
                subprocess.run, [sys.executable, "-c", check], check=True, timeout=TIMEOUT
            )
    finally:
        nats.kill()
