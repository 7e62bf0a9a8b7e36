from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import NamedTuple

import pytest

from aquilia.manifest import AppManifest, ManifestError, parse_reference


class ChatSocket:
    pass


def make_service():
    return object()


def problems_of(*args, **arguments):
    with pytest.raises(ManifestError) as caught:
        AppManifest(*args, **arguments)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return list(caught.value.problems)


def test_the_first_example_of_the_docs():
    manifest = AppManifest(name="chat", controllers=[ChatSocket], websockets={"adapter": "redis"})
    assert manifest.name == "chat"
    assert manifest.controllers == (ChatSocket,)
    assert manifest.websockets == {"adapter": "redis"}


def test_only_the_name_is_needed():
    manifest = AppManifest("chat")
    assert manifest.version == "0.0.0"
    assert manifest.controllers == manifest.services == manifest.middleware == manifest.depends_on == ()
    assert manifest.websockets == {}


def test_classes_objects_and_references_are_kept_as_they_are():
    middleware = object()
    manifest = AppManifest(
        "chat",
        version="1.2.0",
        controllers=(ChatSocket, "chat.controllers:Other"),
        services=[make_service, "chat.services:Users.create"],
        middleware=[middleware, "chat.web:Timing"],
        depends_on=["users"],
    )
    assert manifest.controllers == (ChatSocket, "chat.controllers:Other")
    assert manifest.services == (make_service, "chat.services:Users.create")
    assert manifest.middleware == (middleware, "chat.web:Timing")
    assert manifest.depends_on == ("users",)


def test_a_manifest_does_not_change():
    manifest = AppManifest("chat")
    with pytest.raises(dataclasses.FrozenInstanceError):
        manifest.name = "other"


class Window(NamedTuple):
    size: int


def test_settings_do_not_change_with_the_mapping_that_they_came_from():
    settings = {
        "backpressure": {"strategy": "buffer"},
        "allowed_origins": ["https://a", {"b": [1]}],
        "tags": {"x"},
        "window": Window(3),
    }
    manifest = AppManifest("chat", websockets=settings)
    settings["backpressure"]["strategy"] = "drop"
    settings["allowed_origins"].append("https://evil")
    settings["tags"].add("y")
    assert manifest.websockets == {
        "backpressure": {"strategy": "buffer"},
        "allowed_origins": ("https://a", {"b": (1,)}),
        "tags": {"x"},
        "window": Window(3),
    }
    assert isinstance(manifest.websockets["window"], Window)
    for mapping in (manifest.websockets, manifest.websockets["backpressure"]):
        assert isinstance(mapping, MappingProxyType)
    with pytest.raises(TypeError):
        manifest.websockets["adapter"] = "redis"


def test_equal_manifests_are_equal_and_hash_alike():
    one, other = (AppManifest("chat", websockets={"adapter": "redis"}) for _ in range(2))
    assert one == other
    assert len({one, other}) == 1
    assert one != AppManifest("chat", websockets={"adapter": "nats"})


# --- refusals


@pytest.mark.parametrize("name", ["chat", "a", "live-chat", "live_chat2", "a" * 64])
def test_a_name_is_a_slug(name):
    assert AppManifest(name).name == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Live Chat!", "for instance 'live-chat'"),
        ("2chat", "for instance 'chat'"),
        ("chat-", "for instance 'chat'"),
        ("a" * 65, f"for instance '{'a' * 64}'"),
        ("chat\n", "for instance 'chat'"),
    ],
)
def test_a_name_that_is_no_slug_is_refused_with_the_nearest_one(name, hint):
    (problem,) = problems_of(name)
    assert problem.startswith(f"name: {name!r} is no name")
    assert problem.endswith(hint)


def test_a_name_with_nothing_to_save_is_refused_without_a_suggestion():
    assert problems_of("") == [
        "name: '' is no name for an app: up to 64 of a-z, 0-9, '-' and '_', a letter first"
    ]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"name": 5}, "name: an app's name is a string, not 5 (int)"),
        ({"version": 1.0}, "version: is a string such as '1.2.0', not 1.0 (float)"),
        ({"version": ""}, "version: '' is no version such as '1.2.0'"),
        ({"version": "1 2"}, "version: '1 2' is no version such as '1.2.0'"),
        ({"controllers": ChatSocket}, "controllers: is a list, not the class ChatSocket"),
        ({"controllers": "a:B"}, "controllers: is a list, not 'a:B' (str)"),
        ({"depends_on": "users"}, "depends_on: is a list, not 'users' (str)"),
        ({"services": None}, "services: is a list, not None (NoneType)"),
        ({"depends_on": {"users"}}, "depends_on: is a list, not {'users'} (set)"),
        ({"controllers": ["a.B"]}, "controllers[0]: 'a.B' is not of the form 'package.module:Name'"),
        ({"controllers": [make_service()]}, "controllers[0]: a controller is a class, not <object"),
        ({"controllers": [ChatSocket, 5]}, "controllers[1]: a controller is a class, not 5 (int)"),
        ({"services": ["a:"]}, "services[0]: 'a:' is not of the form 'package.module:Name'"),
        ({"services": [None]}, "services[0]: expected a class, a function, an object or"),
        ({"middleware": [("a", 1)]}, "middleware[0]: expected a class, a function, an object or"),
        ({"depends_on": ["Users"]}, "depends_on[0]: 'Users' is no name for an app"),
        ({"depends_on": [ChatSocket]}, "depends_on[0]: an app's name is a string, not the class ChatSocket"),
        ({"websockets": ["redis"]}, "websockets: is a mapping of settings, not ['redis'] (list)"),
        ({"websockets": {1: 2}}, "websockets: the name of a setting is a string, not 1 (int)"),
        ({"controler": []}, "unknown argument 'controler'; did you mean 'controllers'?"),
        ({"zzz": []}, "unknown argument 'zzz'; there are name, version, controllers, services, middleware,"),
    ],
)
def test_a_wrong_argument_is_refused(arguments, problem):
    (found,) = problems_of(**{"name": "chat", **arguments})
    assert found.startswith(problem)


def test_all_wrong_arguments_are_reported_at_once():
    assert len(problems_of("Chat", version=1, controllers=[1, 2], nothing=True)) == 5


def test_everything_but_the_name_is_a_keyword():
    with pytest.raises(TypeError):
        AppManifest("chat", "1.0")


# --- references


def test_a_reference_names_a_module_and_an_attribute():
    assert parse_reference("a.b:C.d") == ("a.b", "C.d")


@pytest.mark.parametrize(
    "reference", ["", "a", "a.b", ":a", "a:", "a:b:c", "a..b:c", "a b:c", "a-b:c", ".a:b"]
)
def test_a_malformed_reference_is_refused(reference):
    with pytest.raises(ValueError, match=r"is not of the form 'package\.module:Name'"):
        parse_reference(reference)
