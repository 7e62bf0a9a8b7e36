"""Packages that tests install: a folder on `sys.path`, as pip would leave it."""

from __future__ import annotations

from pathlib import Path


def install_package(site: Path, name: str, points: dict[str, str], module: str = "", text: str = "") -> None:
    """Its name, its entry points for adapters, and the text of its one module."""
    about = site / f"{name.replace('-', '_')}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{scheme} = {named}\n" for scheme, named in points.items()]
    (about / "entry_points.txt").write_text("".join(["[aquilia.sockets.adapters]\n", *lines]))
    if module:
        (site / f"{module}.py").write_text(text)
