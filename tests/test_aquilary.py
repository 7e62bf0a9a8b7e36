from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
import pathlib
import subprocess
import sys
import textwrap
import uuid
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquilia.aquilary import (
    BootError,
    Problem,
    Registry,
    RegistryError,
    canonical_json,
    import_problem,
    qualified_name,
)
from aquilia.manifest import AppManifest


class ChatSocket:
    pass


class AdminSocket:
    pass


class Outer:
    class Inner:
        pass


def make_service():
    return object()


def problems_of(*manifests, **options):
    with pytest.raises(RegistryError) as caught:
        Registry.build(manifests, **options)
    return caught.value.problems


def order_of(*manifests):
    return [app.manifest.name for app in Registry.build(manifests).apps]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that can be imported during the test."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        written.append(name)
        return tmp_path / f"{name}.py"

    yield write
    for name in written:
        sys.modules.pop(name, None)


# --- order


def test_apps_keep_the_order_of_declaration():
    assert order_of(AppManifest("b"), AppManifest("a"), AppManifest("c")) == ["b", "a", "c"]


def test_an_app_comes_after_what_it_depends_on():
    manifests = (
        AppManifest("web", depends_on=["chat", "users"]),
        AppManifest("metrics"),
        AppManifest("chat", depends_on=["users", "users"]),
        AppManifest("users"),
        AppManifest("zoo"),
    )
    assert order_of(*manifests) == ["metrics", "users", "chat", "web", "zoo"]


@given(st.data())
def test_the_order_respects_every_dependency(data):
    names = [f"app{number}" for number in range(data.draw(st.integers(0, 7)))]
    manifests = [
        AppManifest(name, depends_on=sorted(data.draw(st.sets(st.sampled_from(names[:number])))))
        if number
        else AppManifest(name)
        for number, name in enumerate(names)
    ]
    order = order_of(*data.draw(st.permutations(manifests)))
    assert sorted(order) == names
    for manifest in manifests:
        assert all(order.index(name) < order.index(manifest.name) for name in manifest.depends_on)


# --- resolving


def test_classes_and_references_are_resolved_alike():
    here = __name__
    manifest = AppManifest(
        "chat",
        controllers=[ChatSocket, f"{here}:Outer.Inner"],
        services=[make_service, f"{here}:make_service"],
        middleware=[f"{here}:AdminSocket"],
    )
    (app,) = Registry.build([manifest]).apps
    assert app.manifest is manifest
    assert app.controllers == (ChatSocket, Outer.Inner)
    assert app.services == (make_service, make_service)
    assert app.middleware == (AdminSocket,)


def test_the_caller_may_say_how_a_manifest_imports():
    asked = []

    def import_module(name: str, manifest: AppManifest) -> ModuleType:
        asked.append((name, manifest.name))
        return sys.modules[__name__]

    manifest = AppManifest("chat", controllers=["controllers:ChatSocket"])
    (app,) = Registry.build([manifest], import_module=import_module).apps
    assert app.controllers == (ChatSocket,)
    assert asked == [("controllers", "chat")]


# --- problems


def test_all_problems_are_reported_at_once():
    problems = problems_of(
        AppManifest("chat", depends_on=["usres"], controllers=["json:Nothing"]),
        AppManifest("users", controllers=[ChatSocket, ChatSocket]),
        AppManifest("users"),
        places={"chat": "modules/chat/manifest.py"},
    )
    assert problems == [
        Problem("users", "two apps are called 'users'"),
        Problem("modules/chat/manifest.py", "depends_on: there is no app 'usres'; did you mean 'users'?"),
        Problem("modules/chat/manifest.py", "controllers: 'json:Nothing': 'json' has no 'Nothing'"),
        Problem("users", f"controllers: {__name__}:ChatSocket is listed twice"),
    ]


def test_the_error_shows_each_problem_on_a_line():
    error = RegistryError([Problem("a.py:3", "wrong"), Problem("b", "bad")])
    assert isinstance(error, BootError)
    assert str(error) == "a.py:3: wrong\nb: bad"


@pytest.mark.parametrize(
    ("edges", "chains"),
    [
        ({"a": ["b"], "b": ["a"]}, ["a → b → a"]),
        ({"a": ["a"]}, ["a → a"]),
        ({"z": ["b"], "b": ["c"], "c": ["z"], "d": ["z"]}, ["z → b → c → z"]),
        ({"x": ["c"], "c": ["d"], "d": ["c"]}, ["c → d → c"]),
        ({"a": ["b"], "b": ["a"], "c": ["d"], "d": ["c"]}, ["a → b → a", "c → d → c"]),
    ],
)
def test_a_cycle_is_shown_as_a_chain(edges, chains):
    problems = problems_of(*(AppManifest(name, depends_on=names) for name, names in edges.items()))
    assert [problem.message for problem in problems] == [
        f"depends_on goes in a circle: {chain}" for chain in chains
    ]
    assert [problem.where for problem in problems] == [chain.split()[0] for chain in chains]


def test_a_controller_belongs_to_one_app():
    (problem,) = problems_of(
        AppManifest("chat", controllers=[ChatSocket]), AppManifest("admin", controllers=[ChatSocket])
    )
    assert problem == Problem("admin", f"controllers: {__name__}:ChatSocket is listed here and in app 'chat'")


def test_a_controller_is_a_class():
    (problem,) = problems_of(AppManifest("chat", controllers=["json:dumps"]))
    assert problem.message == "controllers: json:dumps is not a class"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("jsn:dumps", "ModuleNotFoundError: No module named 'jsn'; did you mean 'json'?"),
        (
            "json.decodr:X",
            "ModuleNotFoundError: No module named 'json.decodr'; did you mean 'json.decoder'?",
        ),
        ("qqqqqq.wwwwww:X", "ModuleNotFoundError: No module named 'qqqqqq'"),
        ("json.decoder:JSONDecode", "'json.decoder' has no 'JSONDecode'; did you mean 'JSONDecoder'?"),
        ("json:JSONDecoder.decod", "json.decoder:JSONDecoder has no 'decod'; did you mean 'decode'?"),
    ],
)
def test_a_reference_that_leads_nowhere_names_the_nearest(reference, message):
    (problem,) = problems_of(AppManifest("chat", services=[reference]))
    assert problem.message == f"services: {reference!r}: {message}"


def test_a_module_that_fails_is_reported_with_the_line_that_failed(module):
    file = module("failing_module", "\n\ndef fail():\n    raise ValueError('no')\n\nfail()\n")
    (problem,) = problems_of(AppManifest("chat", middleware=["failing_module:X"]))
    assert problem.message == f"middleware: 'failing_module:X': ValueError: no ({file}:4)"


def test_a_missing_import_within_a_module_is_reported_with_its_line(module):
    file = module("importing_module", "import jsn\n")
    (problem,) = problems_of(AppManifest("chat", middleware=["importing_module:X"]))
    assert problem.message.endswith(f"No module named 'jsn'; did you mean 'json'? ({file}:1)")


def test_a_syntax_error_is_reported_with_its_line(module):
    file = module("broken_module", "x = 1\nx = = 2\n")
    (problem,) = problems_of(AppManifest("chat", middleware=["broken_module:X"]))
    assert problem.message == f"middleware: 'broken_module:X': SyntaxError: invalid syntax ({file}:2)"


def test_the_nearest_module_is_looked_for_beside_the_importer_too(tmp_path):
    (tmp_path / "controllers.py").touch()
    error = ModuleNotFoundError("No module named 'controlers'", name="controlers")
    assert import_problem(error, beside=[str(tmp_path)]).endswith("did you mean 'controllers'?")


# --- fingerprint


def fingerprint(*manifests: AppManifest, **options: Any) -> str:
    return Registry.build(manifests, **options).fingerprint


FULL = {
    "version": "1.0.0",
    "controllers": [ChatSocket, AdminSocket],
    "services": [make_service, Outer],
    "middleware": [Outer, ChatSocket],
    "websockets": {"adapter": "redis", "backpressure": {"strategy": "buffer", "buffer_size": 10}},
    "depends_on": ["a", "b"],
}
OTHERS = (AppManifest("a"), AppManifest("b"))


def test_a_fingerprint_is_a_sha256():
    assert len(bytes.fromhex(fingerprint())) == 32


@pytest.mark.parametrize(
    "change",
    [
        {"version": "1.0.1"},
        {"controllers": [ChatSocket]},
        {"services": [Outer]},
        {"middleware": [ChatSocket, Outer]},
        {"depends_on": ["a"]},
        {"websockets": {"adapter": "nats", "backpressure": {"strategy": "buffer", "buffer_size": 10}}},
        {"websockets": {"adapter": "redis", "backpressure": {"strategy": "buffer", "buffer_size": 11}}},
    ],
)
def test_a_changed_declaration_changes_the_fingerprint(change):
    before, after = AppManifest("chat", **FULL), AppManifest("chat", **FULL | change)
    assert fingerprint(before, *OTHERS) != fingerprint(after, *OTHERS)


def test_a_changed_name_changes_the_fingerprint():
    assert fingerprint(AppManifest("chat")) != fingerprint(AppManifest("chats"))


@pytest.mark.parametrize(
    "change",
    [
        {"controllers": [AdminSocket, f"{__name__}:ChatSocket"]},
        {"services": [Outer, make_service]},
        {"depends_on": ["b", "a"]},
        {"websockets": {"backpressure": {"buffer_size": 10, "strategy": "buffer"}, "adapter": "redis"}},
    ],
)
def test_an_order_without_meaning_does_not_change_the_fingerprint(change):
    before, after = AppManifest("chat", **FULL), AppManifest("chat", **FULL | change)
    assert fingerprint(before, *OTHERS) == fingerprint(*OTHERS, after)


def test_what_a_controller_declares_counts():
    def describe_with(path):
        return lambda controller: {"path": path, "of": controller}

    manifest = AppManifest("chat", **FULL)
    assert fingerprint(manifest, *OTHERS, describe=describe_with("/a")) != fingerprint(
        manifest, *OTHERS, describe=describe_with("/b")
    )


PROGRAM = '''
"""{docstring}"""
from aquilia.aquilary import Registry
from aquilia.manifest import AppManifest

class Guard: pass
class ChatSocket:
    """{docstring}"""

manifest = AppManifest("chat", controllers=[ChatSocket], websockets={{
    "guards": [Guard(), Guard, len, lambda: 1],
    "origins": {{"a", "b", "c", "d"}},
    "types": [list[int], int | None],
}})
print(Registry.build([manifest], describe=lambda controller: {{"e", "f", Guard}}).fingerprint)
'''


def test_a_fingerprint_is_equal_in_every_process_whatever_the_docstrings_say():
    def run(docstring, hash_seed):
        program = PROGRAM.format(docstring=docstring)
        root = pathlib.Path(__file__).parent.parent
        result = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)},
        )
        return result.stdout

    assert run("one", "1") == run("two", "2")


# --- canonical JSON


class Color(enum.Enum):
    RED = 1


class Name(enum.StrEnum):
    REDIS = "redis"


@dataclass
class Limit:
    rate: float
    kinds: tuple[type, ...] = (int,)


class Shape(msgspec.Struct):
    size: int


ID = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ([True, 1, 1.5, "é"], '[true,1,1.5,"\\u00e9"]'),
        ({"b": 1, "a": (2,)}, '{"a":[2],"b":1}'),
        ({2: "x"}, '{"2":"x"}'),
        ({"b", "a"}, '["a","b"]'),
        (frozenset({1, "a"}), '["a",1]'),
        (Name.REDIS, '"redis"'),
        (Color.RED, f'{{"$enum":"{__name__}:Color.RED"}}'),
        (math.inf, '{"$float":"inf"}'),
        (b"\x01", '{"$bytes":"01"}'),
        (ChatSocket, f'{{"$name":"{__name__}:ChatSocket"}}'),
        (ChatSocket(), f'{{"$name":"{__name__}:ChatSocket"}}'),
        (make_service, f'{{"$name":"{__name__}:make_service"}}'),
        (len, '{"$name":"builtins:len"}'),
        (Limit(2.5), f'{{"$name":"{__name__}:Limit","kinds":[{{"$name":"builtins:int"}}],"rate":2.5}}'),
        (Limit, f'{{"$name":"{__name__}:Limit"}}'),
        (Shape(3), f'{{"$name":"{__name__}:Shape","size":3}}'),
        (ID, f'{{"$name":"uuid:UUID","text":"{ID}"}}'),
        (datetime.timedelta(seconds=5), '{"$name":"datetime:timedelta","text":"0:00:05"}'),
        (decimal.Decimal("1.50"), '{"$name":"decimal:Decimal","text":"1.50"}'),
        (list[int], '{"$generic":[{"$name":"builtins:list"},{"$name":"builtins:int"}]}'),
    ],
)
def test_any_value_has_one_text(value, text):
    assert canonical_json(value) == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_data_is_written_as_the_json_that_it_is(value):
    assert json.loads(canonical_json(value)) == value


def test_a_qualified_name_shows_nesting():
    assert qualified_name(Outer.Inner) == f"{__name__}:Outer.Inner"
