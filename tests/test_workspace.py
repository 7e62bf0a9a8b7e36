from __future__ import annotations

import sys
from pathlib import Path

import pytest

from aquilia.aquilary import Registry
from aquilia.workspace import WorkspaceError, environment, load_workspace

CONTROLLERS = "class Socket: pass\n"


def manifest(name: str, arguments: str = "") -> str:
    return f"from aquilia.manifest import AppManifest\nmanifest = AppManifest({name!r}, {arguments})\n"


@pytest.fixture
def root(tmp_path):
    before = (list(sys.path), list(sys.meta_path), set(sys.modules))
    yield tmp_path.resolve()
    assert (sys.path, sys.meta_path) == before[:2]
    assert not {name for name in set(sys.modules) - before[2] if name.startswith(("modules", "manifest"))}


def write(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)


def names(root: Path, app: str | None = None) -> list[str]:
    with load_workspace(root, app) as workspace:
        return [manifest.name for manifest in workspace.manifests]


def problems_of(root: Path, app: str | None = None) -> list[tuple[str, str]]:
    with pytest.raises(WorkspaceError) as caught:
        load_workspace(root, app)
    return [(problem.where.removeprefix(f"{root}/"), problem.message) for problem in caught.value.problems]


# --- finding manifests


def test_every_manifest_below_modules_is_loaded_in_the_order_of_their_folders(root):
    write(root, {f"modules/{name}/manifest.py": manifest(name) for name in ("users", "chat")})
    write(root, {"modules/notes.txt": "", "modules/empty/x.py": "", "modules/.old/manifest.py": "1 / 0"})
    with load_workspace(root) as workspace:
        assert workspace.root == root
        assert [manifest.name for manifest in workspace.manifests] == ["chat", "users"]
        assert workspace.places == {
            "chat": str(root / "modules/chat/manifest.py"),
            "users": str(root / "modules/users/manifest.py"),
        }


def test_a_manifest_in_the_root_is_loaded_first(root):
    write(root, {"manifest.py": f"from controllers import Socket\n{manifest('site')}"})
    write(root, {"controllers.py": CONTROLLERS, "modules/chat/manifest.py": manifest("chat")})
    with load_workspace(root) as workspace:
        assert [manifest.name for manifest in workspace.manifests] == ["site", "chat"]
        assert workspace.places["site"] == str(root / "manifest.py")
        assert "controllers" in sys.modules
    assert "controllers" not in sys.modules


def test_a_relative_root_is_resolved(root, monkeypatch):
    write(root, {"manifest.py": manifest("chat")})
    monkeypatch.chdir(root)
    with load_workspace(Path()) as workspace:
        assert workspace.root == root


def test_two_apps_with_controllers_of_one_name_make_one_registry(root):
    for name in ("chat", "users"):
        source = manifest(name, "controllers=[Socket, 'controllers:Other']")
        write(root, {f"modules/{name}/manifest.py": f"from controllers import Socket\n{source}"})
        write(root, {f"modules/{name}/controllers.py": f"{CONTROLLERS}class Other: pass\n"})
    with load_workspace(root) as workspace:
        registry = Registry.build(
            workspace.manifests, places=workspace.places, import_module=workspace.import_module
        )
    assert [controller.__module__ for app in registry.apps for controller in app.controllers] == [
        "modules.chat.controllers",
        "modules.chat.controllers",
        "modules.users.controllers",
        "modules.users.controllers",
    ]


def test_a_manifest_in_the_root_imports_from_the_root(root):
    write(
        root, {"manifest.py": manifest("site", "services=['services:find']"), "services.py": "find = len\n"}
    )
    with load_workspace(root) as workspace:
        registry = Registry.build(workspace.manifests, import_module=workspace.import_module)
    assert registry.apps[0].services == (len,)


def test_a_workspace_is_loaded_anew_after_it_was_closed(root):
    write(root, {"modules/chat/manifest.py": manifest("chat")})
    workspace = load_workspace(root)
    workspace.close()
    workspace.close()
    write(root, {"modules/chat/manifest.py": manifest("renamed")})
    assert names(root) == ["renamed"]


def test_one_root_may_be_loaded_twice_and_shares_its_modules(root):
    write(root, {"modules/chat/manifest.py": manifest("chat")})
    with load_workspace(root) as one, load_workspace(root) as other:
        assert one.manifests[0] is other.manifests[0]


# --- an app by its name


def test_an_app_may_be_named(root):
    write(root, {"project.py": manifest("site"), "modules/chat/manifest.py": "1 / 0"})
    with load_workspace(root, "project:manifest") as workspace:
        assert [manifest.name for manifest in workspace.manifests] == ["site"]
        assert workspace.places == {"site": str(root / "project.py")}


def test_a_list_of_manifests_may_be_named_and_each_keeps_its_own_place(root):
    for name in ("chat", "users"):
        write(root, {f"modules/{name}/manifest.py": manifest(name, "services=['find:find']")})
        write(root, {f"modules/{name}/find.py": "def find(): pass\n"})
    gather = "import modules.users.manifest as users\nimport modules.chat.manifest as chat\n"
    apps = "class Set: apps = [users.manifest, chat.manifest, manifest]\n"
    write(root, {"project.py": f"{gather}{manifest('site')}{apps}"})
    with load_workspace(root, "project:Set.apps") as workspace:
        assert workspace.places == {
            "users": str(root / "modules/users/manifest.py"),
            "chat": str(root / "modules/chat/manifest.py"),
            "site": str(root / "project.py"),
        }
        users = workspace.import_module("find", workspace.manifests[0])
        assert users.__name__ == "modules.users.find"


def test_one_of_the_manifests_may_be_named(root):
    for name in ("chat", "users"):
        write(root, {f"modules/{name}/manifest.py": f"from models import who\n{manifest(name)}"})
        write(root, {f"modules/{name}/models.py": "who = 1\n"})
    assert names(root, "modules.users.manifest:manifest") == ["users"]


def test_a_manifest_elsewhere_in_the_root_has_its_folder_too(root):
    write(root, {"apps/chat/setup.py": f"from controllers import Socket\n{manifest('chat')}"})
    write(root, {"apps/chat/controllers.py": CONTROLLERS})
    with load_workspace(root, "apps.chat.setup:manifest"):
        assert "apps.chat.controllers" in sys.modules
    assert "apps.chat.controllers" not in sys.modules


def test_a_package_with_an_init_keeps_its_own_imports(root):
    write(root, {"shop/__init__.py": "", "shop/msgspec.py": "1 / 0"})
    write(root, {"shop/apps.py": f"import msgspec\n{manifest('shop')}"})
    assert names(root, "shop.apps:manifest") == ["shop"]


def test_an_app_in_a_package_itself_may_be_named(root):
    write(root, {"shop/__init__.py": manifest("shop")})
    assert names(root, "shop:manifest") == ["shop"]


def test_an_installed_app_may_be_named(root, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("installed")
    write(elsewhere, {"installed_app.py": manifest("shop")})
    monkeypatch.syspath_prepend(elsewhere)
    with load_workspace(root, "installed_app:manifest") as workspace:
        assert workspace.places == {"shop": "installed_app:manifest"}


# --- what is refused


def test_no_manifest_at_all(root):
    ((where, message),) = problems_of(root)
    assert where == str(root)
    assert "looked for manifest.py and modules/*/manifest.py" in message
    assert "`aq init NAME`" in message


def test_a_root_that_is_no_folder(root):
    assert problems_of(root / "nowhere") == [(str(root / "nowhere"), "is not a folder")]


def test_the_problems_of_all_manifests_are_reported_at_once_with_their_lines(root):
    write(
        root,
        {
            "modules/a/manifest.py": "from controlers import Socket\n",
            "modules/a/controllers.py": CONTROLLERS,
            "modules/b/manifest.py": "import controllers\n",
            "modules/b/controllers.py": "\n1 / 0\n",
            "modules/c/manifest.py": "manifest = = 1\n",
            "modules/d/manifest.py": "manifests = 1\n",
            "modules/e/manifest.py": "manifest = {}\n",
            "modules/f/manifest.py": "manifest = []\n",
            "modules/g/manifest.py": manifest("g", "controllers=[1]"),
            "modules/h/manifest.py": manifest("h"),
            "modules/i/manifest.py": manifest("h"),
            "modules/j-k/manifest.py": manifest("j"),
        },
    )
    where_h = root / "modules/h/manifest.py"
    found = {where: message.replace(f"{root}/", "") for where, message in problems_of(root)}
    assert found == {
        "modules/a/manifest.py": (
            "ModuleNotFoundError: No module named 'controlers'; did you mean 'controllers'? "
            "(modules/a/manifest.py:1)"
        ),
        "modules/b/manifest.py": "ZeroDivisionError: division by zero (modules/b/controllers.py:2)",
        "modules/c/manifest.py": "SyntaxError: invalid syntax (modules/c/manifest.py:1)",
        "modules/d/manifest.py": "has no attribute 'manifest', an AppManifest; did you mean 'manifests'?",
        "modules/e/manifest.py": "'manifest' is {}, not an AppManifest or a list of them",
        "modules/f/manifest.py": "'manifest' is [], not an AppManifest or a list of them",
        "modules/g/manifest.py": (
            "ManifestError: app manifest 'g': controllers[0]: a controller is a class, not 1 (int) "
            "(modules/g/manifest.py:2)"
        ),
        "modules/i/manifest.py": f"the app name 'h' is taken by {where_h}".replace(f"{root}/", ""),
        "modules/j-k/manifest.py": "'j-k' is no name for a Python package",
    }


@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("project", "'project' is not of the form 'package.module:Name'"),
        ("projct:app", "ModuleNotFoundError: No module named 'projct'; did you mean 'project'?"),
        ("project:mainfest", "has no attribute 'mainfest', an AppManifest; did you mean 'manifest'?"),
        ("project:manifest.x", "has no attribute 'manifest.x', an AppManifest"),
        ("project:number", "'number' is 1, not an AppManifest or a list of them"),
        ("project:twice", "the app name 'site' is taken by "),
    ],
)
def test_an_app_that_is_none(root, app, message):
    write(root, {"project.py": f"{manifest('site')}number = 1\ntwice = [manifest, manifest]\n"})
    ((_, problem),) = problems_of(root, app)
    assert problem.startswith(message)


def test_two_roots_cannot_be_open_at_once(root):
    for name in ("one", "two"):
        write(root / name, {"modules/chat/manifest.py": manifest(name)})
    with load_workspace(root / "one"):
        ((_, message),) = problems_of(root / "two")
        assert message == f"the workspace {root / 'one'} is still open in this process: close it first"
    assert names(root / "two") == ["two"]


# --- AQ_ENV


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "production"), ("", "production"), ("production", "production"), ("development", "development")],
)
def test_the_environment_is_production_unless_said_otherwise(monkeypatch, value, expected):
    monkeypatch.delenv("AQ_ENV", raising=False)
    if value is not None:
        monkeypatch.setenv("AQ_ENV", value)
    assert environment() == expected


@pytest.mark.parametrize(("value", "hint"), [("Develop", "; did you mean 'development'?"), ("zz", "")])
def test_another_environment_is_refused(monkeypatch, value, hint):
    monkeypatch.setenv("AQ_ENV", value)
    with pytest.raises(WorkspaceError) as caught:
        environment()
    assert str(caught.value) == f"AQ_ENV: is {value!r}, not 'production' or 'development'{hint}"
