"""The artifact as a file: one form, checked when it is read, and what differs between two."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aquilia.sockets.artifact import (
    FORMAT,
    AppRecord,
    Artifact,
    ArtifactError,
    EmitRecord,
    EventRecord,
    GuardRecord,
    HookRecord,
    NamespaceRecord,
    ParameterRecord,
    canonical_text,
    differences,
    read,
    write,
)


def event(name: str, **changes: Any) -> EventRecord:
    record = EventRecord(
        name=name,
        kind="event",
        handler=name,
        doc="Says “hello”.",
        ack=True,
        payload={"type": "string"},
        delivery="at_most_once",
        guards=("chat:Members",),
        answer={"type": "integer"},
    )
    return msgspec.structs.replace(record, **changes)


def namespace(path: str, **changes: Any) -> NamespaceRecord:
    record = NamespaceRecord(
        path=path,
        app="chat",
        controller="chat:Chat",
        doc="",
        parameters=(ParameterRecord("room", "str"),),
        settings={"max_message_size": 65_536, "message_rate_limit": 2.0, "allowed_origins": None},
        events=(event("say"),),
        emits=(EmitRecord("said", {"type": "array"}),),
        guards=(GuardRecord("check", 10, ("message",)),),
        middleware=("chat:timed",),
        hooks=(HookRecord("enter", "connect"),),
    )
    return msgspec.structs.replace(record, **changes)


def artifact(
    *namespaces: NamespaceRecord, apps: tuple[AppRecord, ...] = (AppRecord("chat", "1.0"),)
) -> Artifact:
    return Artifact(apps=apps, namespaces=namespaces or (namespace("/chat/:room"),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "artifacts" / "ws.crous"


def edited(path: Path, **changes: Any) -> None:
    """Change the file, and give it the fingerprint that fits."""
    content = {**json.loads(path.read_text()), **changes}
    del content["fingerprint"]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    content["fingerprint"] = hashlib.sha256(canonical.encode()).hexdigest()
    path.write_text(json.dumps(content))


# Its form


def test_what_was_written_is_read(path: Path) -> None:
    write(path, artifact())

    assert read(path) == artifact()


def test_the_file_is_json_with_sorted_keys_and_a_newline_at_its_end(path: Path) -> None:
    write(path, artifact())

    text = path.read_bytes().decode()
    content = json.loads(text)
    assert text == json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    assert set(content) == {"format", "fingerprint", "apps", "namespaces"}
    assert content["format"] == FORMAT
    assert "“hello”" in text


def test_an_event_without_an_answer_has_none_in_the_file() -> None:
    silent = artifact(namespace("/x", events=(event("say", answer=msgspec.UNSET),)))

    [spoken] = json.loads(canonical_text(artifact()))["namespaces"][0]["events"]
    [unspoken] = json.loads(canonical_text(silent))["namespaces"][0]["events"]
    assert spoken["answer"] == {"type": "integer"}
    assert "answer" not in unspoken


def test_the_fingerprint_can_be_computed_in_any_language(path: Path) -> None:
    write(path, artifact())
    stated = json.loads(path.read_text())["fingerprint"]

    edited(path)

    assert json.loads(path.read_text())["fingerprint"] == stated == artifact().fingerprint
    assert len(stated) == 64


def test_another_content_has_another_fingerprint() -> None:
    assert artifact().fingerprint != artifact(namespace("/other")).fingerprint


# Writing


def test_a_file_is_replaced_and_nothing_else_is_left(path: Path) -> None:
    write(path, artifact(namespace("/old")))
    write(path, artifact())

    assert read(path) == artifact()
    assert os.listdir(path.parent) == ["ws.crous"]


def test_the_file_has_the_rights_of_any_other(path: Path) -> None:
    write(path, artifact())
    (path.parent / "other").write_text("")

    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((path.parent / "other").stat().st_mode)


def test_a_folder_that_cannot_be_made_is_an_error_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file")

    with pytest.raises(ArtifactError, match=r"ws\.crous cannot be written: File exists"):
        write(tmp_path / "artifacts" / "ws.crous", artifact())


def test_a_write_that_fails_leaves_what_was_there(path: Path) -> None:
    path.mkdir(parents=True)

    with pytest.raises(ArtifactError, match="cannot be written: Is a directory"):
        write(path, artifact())

    assert os.listdir(path.parent) == ["ws.crous"]


# Reading what is wrong


def test_a_missing_file_says_what_to_run(path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"does not exist; run `aq compile`") as refused:
        read(path)

    assert refused.value.path == path


def test_a_folder_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read: Is a directory"):
        read(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 100, -3])
def test_a_truncated_file_is_damaged(path: Path, length: int) -> None:
    write(path, artifact())
    path.write_bytes(path.read_bytes()[:length])

    with pytest.raises(ArtifactError, match=r"is damaged: .*; run `aq compile`"):
        read(path)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 5000, b"{'a': 1}", b'{"format": "aquilia.ws/1" "a"}']
)
def test_what_is_no_json_is_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ws.crous"
    path.write_bytes(content)

    with pytest.raises(ArtifactError, match="is damaged"):
        read(path)


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"format": 1}', '{"format": "openapi/3"}'])
def test_other_json_is_no_artifact(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ws.crous"
    path.write_text(content)

    with pytest.raises(ArtifactError, match="is no artifact of `aq compile`: its format should be"):
        read(path)


def test_a_format_of_another_version_is_named(path: Path) -> None:
    write(path, artifact())
    edited(path, format="aquilia.ws/2")

    with pytest.raises(
        ArtifactError, match=r"'aquilia\.ws/2', and this version of Aquilia reads 'aquilia\.ws/1'"
    ):
        read(path)


def test_an_edit_by_hand_is_found(path: Path) -> None:
    write(path, artifact())
    path.write_text(path.read_text().replace('"say"', '"speak"'))

    with pytest.raises(ArtifactError, match="was changed by hand"):
        read(path)


def test_a_file_without_a_fingerprint_was_changed_by_hand(path: Path) -> None:
    write(path, artifact())
    content = json.loads(path.read_text())
    del content["fingerprint"]
    path.write_text(json.dumps(content))

    with pytest.raises(ArtifactError, match="was changed by hand"):
        read(path)


def test_a_file_with_something_missing_is_damaged_even_where_its_fingerprint_fits(path: Path) -> None:
    write(path, artifact())
    edited(path, namespaces=[{"path": "/x"}])

    with pytest.raises(ArtifactError, match=r"is damaged: Object missing required field `app`"):
        read(path)


# Differences


def test_equal_artifacts_have_no_differences() -> None:
    assert differences(artifact(), artifact()) == []


def test_namespaces_that_came_and_went_are_named() -> None:
    before = artifact(namespace("/old"), namespace("/kept"))
    after = artifact(namespace("/kept"), namespace("/new"))

    assert differences(before, after) == ["namespace /new added", "namespace /old removed"]


def test_events_both_ways_are_named() -> None:
    before = namespace("/x", events=(event("say"), event("old"), event("kept")))
    after = namespace(
        "/x",
        events=(event("say", payload={}), event("new"), event("kept")),
        emits=(EmitRecord("said", {"type": "string"}),),
    )

    assert differences(artifact(before), artifact(after)) == [
        "namespace /x: event new added",
        "namespace /x: event old removed",
        "namespace /x: event say changed",
        "namespace /x: emitted event said changed",
    ]


def test_other_parts_of_a_namespace_and_apps_are_named() -> None:
    before = artifact(namespace("/x"))
    after = artifact(
        namespace("/x", settings={"max_message_size": 1}, guards=()), apps=(AppRecord("chat", "2.0"),)
    )

    assert differences(before, after) == [
        "app chat changed",
        "namespace /x: settings changed",
        "namespace /x: guards changed",
    ]
