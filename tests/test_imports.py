from __future__ import annotations

import importlib
import importlib.util
import pickle
import py_compile
import sys
from pathlib import Path
from types import ModuleType

import pytest

from aquilia.imports import Folder, importable


@pytest.fixture
def root(tmp_path):
    before = (list(sys.path), list(sys.meta_path), dict(sys.modules))
    yield tmp_path.resolve()
    assert (sys.path, sys.meta_path) == before[:2]
    sys.modules.clear()
    sys.modules.update(before[2])


def write(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)


def chat_and_users(root: Path) -> list[Folder]:
    return [Folder(root / "modules" / name, f"modules.{name}") for name in ("chat", "users")]


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


# --- within a folder


def test_each_folder_gets_its_own_module_of_a_name_that_both_have(root):
    for name in ("chat", "users"):
        write(
            root,
            {
                f"modules/{name}/manifest.py": "from controllers import Socket\n",
                f"modules/{name}/controllers.py": f"class Socket: name = {name!r}\n",
            },
        )
    with importable(root, chat_and_users(root)):
        chat, users = load("modules.chat.manifest").Socket, load("modules.users.manifest").Socket
        assert (chat.name, users.name) == ("chat", "users")
        assert (chat.__module__, users.__module__) == (
            "modules.chat.controllers",
            "modules.users.controllers",
        )
        assert chat is load("modules.chat.controllers").Socket
        assert pickle.loads(pickle.dumps(chat)) is chat


IMPORTS = {
    "from services.users import find": "find()",
    "from services import users": "users.find()",
    "import services.users": "services.users.find()",
    "import services.users as people": "people.find()",
    "import services as s, services.users": "s.users.find() + services.users.find()[4:]",
    "import json, services.users, os.path": "services.users.find()",
    "def f():\n    from services.users import find\n    return find()": "f()",
    "def f():\n    import services.users\n    return services.users.find()": "f()",
    "from .services.users import find": "find()",
    "from modules.chat.services.users import find": "find()",
    "from . import services\nimport services.users": "services.users.find()",
}


@pytest.mark.parametrize("statement", IMPORTS)
def test_every_form_of_import_finds_what_lies_beside_the_manifest(root, statement):
    write(
        root,
        {
            "modules/chat/services/__init__.py": "",
            "modules/chat/services/users.py": "def find(): return 'chat'\n",
            "modules/users/services/users.py": "def find(): return 'users'\n",
            "modules/chat/manifest.py": f"{statement}\nfound = lambda: {IMPORTS[statement]}\n",
        },
    )
    with importable(root, chat_and_users(root)):
        assert load("modules.chat.manifest").found() == "chat"
        assert "services" not in sys.modules


def test_import_of_a_dotted_name_binds_its_first_part_only(root):
    write(
        root,
        {
            "modules/chat/services/users.py": "",
            "modules/chat/manifest.py": "import services.users\nnames = [n for n in dir() if n[0] != '_']",
        },
    )
    with importable(root, chat_and_users(root)):
        module = load("modules.chat.manifest")
        assert module.names == ["services"]
        assert module.services.__name__ == "modules.chat.services"


def test_a_module_runs_once_whatever_it_is_called(root):
    write(
        root,
        {
            "runs.py": "runs = []\n",
            "modules/chat/manifest.py": "import state\nimport modules.chat.state\nfrom . import state\n",
            "modules/chat/state.py": "from runs import runs\nruns.append(__name__)\n",
        },
    )
    with importable(root, chat_and_users(root)):
        load("modules.chat.manifest")
        assert load("state") is load("modules.chat.state")
        assert load("runs").runs == ["modules.chat.state"]


def test_modules_that_import_each_other_work_as_usual(root):
    write(
        root,
        {
            "modules/chat/a.py": "import b\nvalue = 1\ndef of_b(): return b.value\n",
            "modules/chat/b.py": "import a\nvalue = 2\ndef of_a(): return a.value\n",
        },
    )
    with importable(root, chat_and_users(root)):
        assert load("modules.chat.a").of_b() == 2
        assert load("modules.chat.b").of_a() == 1


def test_a_nested_module_sees_the_folder_of_its_manifest(root):
    write(
        root,
        {
            "modules/chat/models.py": "who = 'chat'\n",
            "modules/chat/deep/inner.py": "from models import who\n",
        },
    )
    with importable(root, chat_and_users(root)):
        assert load("modules.chat.deep.inner").who == "chat"


def test_the_root_is_importable_and_a_folders_own_file_comes_before_it(root):
    write(
        root,
        {
            "shared.py": "who = 'root'\n",
            "both.py": "who = 'root'\n",
            "modules/chat/both.py": "who = 'chat'\n",
            "modules/chat/manifest.py": "import shared, both\n",
            "modules/users/manifest.py": "import shared, both\n",
        },
    )
    with importable(root, chat_and_users(root)):
        chat, users = load("modules.chat.manifest"), load("modules.users.manifest")
        assert (chat.both.who, users.both.who) == ("chat", "root")
        assert chat.shared is users.shared is load("shared")


def test_a_standard_module_is_never_hidden_and_an_installed_one_only_within_the_folder(root):
    write(
        root,
        {
            "modules/chat/json.py": "raise RuntimeError\n",
            "modules/chat/msgspec.py": "import msgspec as installed\n",
            "modules/chat/manifest.py": "import json, msgspec\n",
            "modules/users/manifest.py": "import msgspec\n",
        },
    )
    with importable(root, chat_and_users(root)):
        chat, users = load("modules.chat.manifest"), load("modules.users.manifest")
        assert chat.json is sys.modules["json"]
        assert chat.msgspec.__name__ == "modules.chat.msgspec"
        assert users.msgspec is chat.msgspec.installed is load("msgspec")


def test_a_folder_without_python_files_hides_nothing(root):
    write(root, {"modules/chat/msgspec/notes.txt": "", "modules/chat/manifest.py": "import msgspec\n"})
    with importable(root, chat_and_users(root)):
        assert load("modules.chat.manifest").msgspec is load("msgspec")


def test_bytecode_of_an_ordinary_import_is_neither_used_nor_overwritten(root, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    write(root, {"modules/chat/a.py": "import b\n", "modules/chat/b.py": ""})
    with importable(root, chat_and_users(root)):
        load("modules.chat.a")
    assert not list(root.rglob("*.pyc"))


def test_lines_and_encodings_are_those_of_the_source(root):
    write(root, {"modules/chat/b.py": ""})
    (root / "modules/chat/a.py").write_bytes(
        b"# coding: latin-1\nimport b\nname = '\xe9'\ndef fail():\n    1 / 0\n"
    )
    with importable(root, chat_and_users(root)):
        module = load("modules.chat.a")
        assert module.name == "é"
        with pytest.raises(ZeroDivisionError) as caught:
            module.fail()
        assert (caught.traceback[-1].path, caught.traceback[-1].lineno) == (root / "modules/chat/a.py", 4)


def test_a_regular_package_in_the_way_is_used_as_such(root):
    write(
        root,
        {
            "modules/__init__.py": "",
            "modules/chat/__init__.py": "from models import who\n",
            "modules/chat/models.py": "who = 'chat'\n",
        },
    )
    with importable(root, chat_and_users(root)):
        assert load("modules.chat").who == "chat"
        assert load("modules").__file__ == str(root / "modules/__init__.py")


def test_a_regular_package_of_the_same_name_elsewhere_does_not_hide_the_root(root, monkeypatch):
    elsewhere = root / "elsewhere"
    write(elsewhere, {"modules/__init__.py": ""})
    write(root, {"modules/chat/manifest.py": ""})
    monkeypatch.syspath_prepend(elsewhere)
    with importable(root, chat_and_users(root)):
        assert load("modules.chat.manifest").__file__ == str(root / "modules/chat/manifest.py")


# --- from outside


def test_a_bare_name_that_one_folder_has_is_importable_from_outside(root):
    write(root, {"modules/chat/services/users.py": "", "modules/chat/only.py": "class A: pass\n"})
    with importable(root, chat_and_users(root)):
        assert load("only") is load("modules.chat.only")
        assert load("only").__spec__.name == "modules.chat.only"
        assert load("services.users") is load("modules.chat.services.users")
        assert load("services") is load("modules.chat.services")


def test_a_bare_name_that_several_folders_have_is_refused_from_outside(root):
    for name in ("chat", "users"):
        write(root, {f"modules/{name}/controllers.py": ""})
    with importable(root, chat_and_users(root)):
        load("modules.chat.controllers")
        with pytest.raises(ImportError) as caught:
            load("controllers")
    assert str(caught.value) == (
        "'controllers' is in several folders: "
        "import it as modules.chat.controllers or modules.users.controllers"
    )
    assert caught.value.name == "controllers"


def test_a_name_that_nobody_has_is_missing_as_usual(root):
    write(root, {"modules/chat/services/users.py": ""})
    with importable(root, chat_and_users(root)):
        for name in ("nobody_has_this", "modules.nobody", "modules.chat.nobody", "services.nobody"):
            with pytest.raises(ModuleNotFoundError):
                load(name)


# --- coming and going


def test_leaving_takes_out_what_was_loaded(root):
    write(
        root,
        {
            "shared.py": "",
            "modules/chat/manifest.py": "import controllers, shared, wave\n",
            "modules/chat/controllers.py": "",
        },
    )
    standard = set(sys.modules) | {"wave"}
    with importable(root, chat_and_users(root)):
        load("modules.chat.manifest")
        load("controllers")
    left = {name for name in set(sys.modules) - standard if name != "wave" and not name.startswith("_")}
    assert not left & {
        "modules",
        "modules.chat",
        "modules.chat.manifest",
        "modules.chat.controllers",
        "controllers",
        "shared",
    }
    assert "wave" in sys.modules
    for name in ("modules.chat.manifest", "controllers", "shared"):
        with pytest.raises(ModuleNotFoundError):
            load(name)


def test_a_module_of_the_root_that_is_importable_anyway_stays(root, monkeypatch):
    write(root, {"shared.py": ""})
    monkeypatch.syspath_prepend(root)
    with importable(root, []):
        shared = load("shared")
    assert load("shared") is shared


def test_another_root_in_the_same_process_gets_its_own_modules(root):
    for name in ("one", "two"):
        write(root / name, {"modules/chat/manifest.py": "from state import who\n"})
        write(root / name, {"modules/chat/state.py": f"who = {name!r}\n", "manifest.py": f"who = {name!r}\n"})
        with importable(root / name, chat_and_users(root / name), ["manifest"]):
            assert load("modules.chat.manifest").who == name
            assert load("manifest").who == name


def test_modules_of_another_place_are_set_aside_and_come_back(root, monkeypatch):
    write(root / "old", {"modules/chat/state.py": "who = 'old'\n", "manifest.py": "who = 'old'\n"})
    write(root / "new", {"modules/chat/state.py": "who = 'new'\n", "manifest.py": "who = 'new'\n"})
    monkeypatch.syspath_prepend(root / "old")
    old_state, old_manifest = load("modules.chat.state"), load("manifest")
    with importable(root / "new", chat_and_users(root / "new"), ["manifest"]):
        assert load("modules.chat.state").who == "new"
        assert load("manifest").who == "new"
    assert load("modules.chat.state") is old_state
    assert load("manifest") is old_manifest


def test_a_module_that_was_imported_before_is_not_run_again(root, monkeypatch):
    write(root, {"modules/chat/state.py": "", "modules/chat/manifest.py": "import state\n"})
    monkeypatch.syspath_prepend(root)
    state = load("modules.chat.state")
    with importable(root, chat_and_users(root)):
        assert load("modules.chat.manifest").state is state
    assert load("modules.chat.state") is state


def test_one_root_may_be_entered_twice_and_the_last_to_leave_cleans_up(root):
    write(root, {"modules/chat/manifest.py": "", "modules/users/manifest.py": "import models\n"})
    write(root, {"modules/users/models.py": ""})
    chat, users = chat_and_users(root)
    with importable(root, [chat]):
        manifest = load("modules.chat.manifest")
        with importable(root, [users]):
            load("modules.users.manifest")
            assert load("modules.chat.manifest") is manifest
        assert load("modules.chat.manifest") is manifest
    assert "modules.chat.manifest" not in sys.modules


def test_two_roots_cannot_be_open_at_once(root):
    with importable(root / "one", []):
        with (
            pytest.raises(
                RuntimeError, match=r"workspace .*one is still open in this process: close it first"
            ),
            importable(root / "two", []),
        ):
            pass
        assert str(root / "one") in sys.path
    with importable(root / "two", []):
        assert str(root / "two") in sys.path


def test_what_is_no_python_source_is_left_to_python(root):
    write(root, {"modules/chat/state.py": "who = 'compiled'\n"})
    source = root / "modules/chat/state.py"
    py_compile.compile(str(source), cfile=str(source.with_suffix(".pyc")))
    source.unlink()
    with importable(root, chat_and_users(root)):
        assert load("modules.chat.state").who == "compiled"


def test_looking_for_a_bare_name_does_not_load_it(root):
    write(root, {"modules/chat/state.py": "raise RuntimeError\n"})
    with importable(root, chat_and_users(root)):
        spec = importlib.util.find_spec("state")
        assert spec is not None
        assert spec.name == "state"
