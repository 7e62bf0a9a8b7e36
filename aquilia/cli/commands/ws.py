from __future__ import annotations
import typer

app = typer.Typer()


@app.command("inspect")
def inspect_artifact():
    """x"""


@app.callback()
def cb():
    pass
