"""What can be wrong with the services of an application, and how that is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

__all__ = ["DIError", "Link", "Problem", "ProblemKind", "name_of"]

ProblemKind = Literal[
    "declaration",  # @service itself: a scope that does not exist, a target that cannot be one
    "signature",  # parameters or a return value that do not say what they are
    "missing",  # nothing provides it
    "scope",  # it is provided, but does not live as long as what needs it
    "absent",  # it lives in a scope that does not exist where it is needed
    "cycle",
    "duplicate",
    "override",
    "closed",  # a container that is not open
]


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a chain of dependencies: a name, and the `file:line` where it stands."""

    name: str
    where: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `chain` leads from who asks to the culprit; `near` is what may be meant."""

    kind: ProblemKind
    message: str
    chain: tuple[Link, ...] = ()
    near: tuple[str, ...] = ()

    def __str__(self) -> str:
        hint = f"; did you mean {' or '.join(self.near)}?" if self.near else ""
        if not self.chain:
            return self.message + hint
        width = max(len(link.name) for link in self.chain)
        path = " → ".join(link.name for link in self.chain) if self._leads() else ""
        places = "".join(f"\n    {link.name:<{width}}  {link.where}" for link in self.chain)
        return f"{path}{': ' if path else ''}{self.message}{hint}{places}"

    def _leads(self) -> bool:
        return len(self.chain) > 1 and self.kind != "duplicate"


class DIError(Exception):
    """The services do not fit together; `problems` has everything that is wrong."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        listed = "\n".join(f"{number}. {problem}" for number, problem in enumerate(self.problems, 1))
        return f"{len(self.problems)} problems with the services\n{listed}"


def name_of(key: Any) -> str:
    """How a type or function is called in a message: short, without its module."""
    if isinstance(key, list):  # the parameters of a Callable
        return f"[{', '.join(name_of(each) for each in key)}]"
    origin, arguments = get_origin(key), get_args(key)
    name = getattr(origin or key, "__qualname__", None) or getattr(key, "__name__", None)
    if name is None or (origin is not None and not isinstance(origin, type)):
        return str(key).replace("typing.", "")
    name = str(name).rpartition("<locals>.")[2]
    return f"{name}[{', '.join(name_of(argument) for argument in arguments)}]" if arguments else name
