"""Controllers read into contracts.

Reading reports every problem of every controller, each with its place, and runs no handler.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, get_type_hints

from aquilia.aquilary import Problem, qualified_name
from aquilia.controller import routes_of
from aquilia.di import Dependency, DIError, call_dependencies, constructor_dependencies
from aquilia.patterns import Pattern, PatternError, compile_pattern
from aquilia.sockets.contract import (
    EventContract,
    GuardContract,
    HookContract,
    SocketContract,
)
from aquilia.sockets.controller import SocketController
from aquilia.sockets.declaration import (
    ConnectDeclaration,
    DisconnectDeclaration,
    EventDeclaration,
    GuardDeclaration,
    Handler,
    PresenceDeclaration,
    SocketDeclaration,
    handlers_of,
    socket_declaration,
)
from aquilia.sockets.emits import Emits
from aquilia.sockets.guards import CHECK_ARGUMENTS, guard_checks, guard_problems
from aquilia.sockets.middleware import middleware_problems, span_problem
from aquilia.sockets.schema import PayloadType, SchemaError, payload_type
from aquilia.sockets.settings import NodeSettings, SettingsError, SocketSettings, socket_settings
from aquilia.source import SourceLocation

__all__ = ["read_contract"]

ANY_PAYLOAD = payload_type(None)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def read_contract(controller: type, node: NodeSettings, problems: list[Problem]) -> SocketContract | None:
    """Read one class. None, with the reason among `problems`, if it cannot be served at all."""
    return _Reader(controller, problems).read(node)


class _Reader:
    def __init__(self, controller: type, problems: list[Problem]) -> None:
        self._controller = controller
        self._problems = problems
        declared = socket_declaration(controller)
        function = declared.function if declared is not None else None
        self._location = SourceLocation.of(function or controller)

    def read(self, node: NodeSettings) -> SocketContract | None:
        name = self._controller.__qualname__
        if not issubclass(self._controller, SocketController):
            self._problem(self._location, f"{name} has @Socket, but does not extend SocketController")
            return None
        declared = socket_declaration(self._controller)
        if declared is None:
            self._problem(self._location, f"{name} extends SocketController, but has no @Socket(path)")
            return None
        pattern, settings = self._pattern(declared), self._settings(declared, node)
        # What is wrong with these does not hide what else is wrong.
        contract = SocketContract(
            self._controller,
            declared,
            settings or node.sockets,
            pattern or compile_pattern("/"),
            self._location,
            node.chain,
        )
        contract.constructor = self._dependencies(
            self._location, lambda: constructor_dependencies(self._controller)
        )
        self._check_chain(self._location, declared.guards, declared.middleware)
        if declared.function is not None:
            self._check_function(declared.function, contract)
        for route in routes_of(self._controller):
            self._problem(
                SourceLocation.of(route.function),
                f"{name} is a socket controller: put the HTTP route {route.attribute} into a Controller of its own",
            )
        self._read_emits(contract)
        for handler in handlers_of(self._controller):
            self._read_handler(contract, handler)
        contract.guards.sort(key=lambda guard: guard.declaration.priority)
        return contract if pattern and settings else None

    def _pattern(self, declared: SocketDeclaration) -> Pattern | None:
        if not isinstance(declared.path, str):
            self._problem(
                self._location, f"@Socket(path): a path like '/chat/:room' is needed, not {declared.path!r}"
            )
            return None
        try:
            return compile_pattern(declared.path)
        except PatternError as error:
            self._problem(self._location, str(error))
            return None

    def _settings(self, declared: SocketDeclaration, node: NodeSettings) -> SocketSettings | None:
        """Reports each setting that cannot be honoured, and then leaves it out to find the next."""
        sound = declared
        while True:
            try:
                settings = socket_settings(sound, node, f"@Socket({declared.path!r})")
            except SettingsError as error:
                self._problem(self._location, str(error))
                key = error.key.partition(".")[0]
                default: Any = SocketDeclaration.__dataclass_fields__[key].default
                sound = replace(sound, **{key: default})
            else:
                return settings if sound is declared else None

    def _problem(self, location: SourceLocation, message: str) -> None:
        self._problems.append(Problem(str(location), message))

    def _read_emits(self, contract: SocketContract) -> None:
        attributes = {name: None for owner in reversed(self._controller.__mro__) for name in vars(owner)}
        declared: dict[str, str] = {}
        for attribute in attributes:
            emits = getattr(self._controller, attribute, None)
            if not isinstance(emits, Emits):
                continue
            other = declared.setdefault(emits.name, attribute)
            first = contract.emits.setdefault(emits.name, emits)
            if (first.payload.annotation, first.strategy, first.key) != (
                emits.payload.annotation,
                emits.strategy,
                emits.key,
            ):
                self._problem(
                    self._location,
                    f"event {emits.name!r} is declared by {other}, and differently by {attribute}",
                )

    def _read_handler(self, contract: SocketContract, handler: Handler) -> None:
        declaration = handler.declaration
        if hasattr(SocketController, handler.attribute):
            name = handler.attribute
            self._problem(
                handler.location, f"{name} hides SocketController.{name}; give the method another name"
            )
        elif isinstance(declaration, GuardDeclaration):
            if self._takes(handler, len(CHECK_ARGUMENTS[f"check_{declaration.on}"])):
                contract.guards.append(GuardContract(handler, declaration))
        elif not inspect.iscoroutinefunction(handler.function):
            self._problem(handler.location, f"{handler.attribute} is not async; write `async def`")
        elif isinstance(declaration, ConnectDeclaration):
            if self._takes(handler, 1, more=True):
                contract.on_connect.append(HookContract(handler, self._injected(handler, 2)))
        elif isinstance(declaration, DisconnectDeclaration):
            self._read_disconnect(contract, handler)
        elif isinstance(declaration, PresenceDeclaration):
            self._read_presence(contract, handler)
        else:
            self._read_event(contract, handler, declaration)

    def _read_disconnect(self, contract: SocketContract, handler: Handler) -> None:
        if not self._takes(handler, 1, more=True):
            return
        reason = self._positional(handler)[2:3] == ["reason"]
        dependencies = self._injected(handler, 3 if reason else 2)
        contract.on_disconnect.append(HookContract(handler, dependencies, takes_reason=reason))

    def _read_presence(self, contract: SocketContract, handler: Handler) -> None:
        if not self._takes(handler, 3, more=True):
            return
        if contract.declaration.presence is False:
            self._problem(
                handler.location,
                f"{handler.attribute}: no room has presence: declare it by @Socket(…, presence=True)",
            )
        contract.on_presence.append(HookContract(handler, self._injected(handler, 4)))

    def _read_event(self, contract: SocketContract, handler: Handler, declaration: EventDeclaration) -> None:
        if not self._takes(handler, 1, more=True):
            return
        other = contract.events.get(declaration.name)
        if other is not None:
            self._problem(
                handler.location,
                f"event {declaration.name!r} is handled by {handler.attribute}, and already by "
                f"{other.handler.attribute} at {other.handler.location}",
            )
            return
        self._check_planned(handler, declaration)
        self._check_chain(handler.location, declaration.guards, declaration.middleware, of_event=True)
        app, declared = contract.chain.message_middleware, contract.declaration.middleware
        if problem := span_problem(app, declared, declaration.middleware):
            self._problem(handler.location, f"event {declaration.name!r}: {problem}")
        takes_payload = len(self._positional(handler)) >= 3
        contract.events[declaration.name] = EventContract(
            handler=handler,
            declaration=declaration,
            payload=self._payload(handler, declaration),
            takes_payload=takes_payload,
            answer=self._answer(handler, declaration),
            dependencies=self._injected(handler, 3 if takes_payload else 2),
        )

    def _check_planned(self, handler: Handler, declaration: EventDeclaration) -> None:
        if declaration.backpressure is not None:
            self._problem(
                handler.location,
                "backpressure= is about what clients get: declare it on the event that is sent, as in "
                "Emits(…, backpressure=…), or on @Socket; what clients send waits in the inbox, and reading pauses "
                "when that is full",
            )

    def _check_function(self, function: Callable[..., Any], contract: SocketContract) -> None:
        """A function has its connection as a whole, and messages that are no envelopes."""
        name, parameters = function.__qualname__, list(inspect.signature(function).parameters.values())
        if not inspect.iscoroutinefunction(function):
            self._problem(self._location, f"{name} is not async; write `async def`")
        if [parameter.kind in _POSITIONAL for parameter in parameters] != [True]:
            self._problem(self._location, f"{name} must take (request), and nothing else")
        raw = f"{name} is a function, whose messages are no envelopes"
        elsewhere = "write a controller, or put it into a manifest without"
        guards = (*contract.chain.guards, *contract.declaration.guards)
        for _, check in (*guard_checks(guards, "check_message"), *guard_checks(guards, "check_room")):
            guard = type(getattr(check, "__self__", check)).__qualname__
            self._problem(self._location, f"{raw}: {guard} cannot guard them; {elsewhere}")
        for middleware in contract.chain.message_middleware:
            self._problem(
                self._location, f"{raw}: {qualified_name(middleware)} cannot wrap them; {elsewhere}"
            )
        strategy = contract.settings.backpressure.strategy
        if strategy not in ("buffer", "disconnect"):
            self._problem(
                self._location,
                f"{raw}: its clients could not be told what the strategy {strategy!r} dropped (accepted: 'buffer', "
                "'disconnect')",
            )

    def _check_chain(
        self,
        location: SourceLocation,
        guards: Sequence[Any],
        middleware: Sequence[Any],
        *,
        of_event: bool = False,
    ) -> None:
        for key, entries in (("guards", guards), ("middleware", middleware)):
            if not isinstance(entries, tuple):
                self._problem(location, f"{key}: a list is needed, not {entries!r}")
            elif key == "guards":
                self._add(location, guard_problems(entries, of_event=of_event))
            else:
                self._add(location, middleware_problems(entries))

    def _add(self, location: SourceLocation, problems: Iterable[str]) -> None:
        for problem in problems:
            self._problem(location, problem)

    def _positional(self, handler: Handler) -> list[str]:
        parameters = inspect.signature(handler.function).parameters.values()
        return [parameter.name for parameter in parameters if parameter.kind in _POSITIONAL]

    def _takes(self, handler: Handler, arguments: int, *, more: bool = False) -> bool:
        """Whether the method takes self and so many arguments, or `more` that DI fills."""
        given = len(self._positional(handler)) - 1
        if given == arguments or (more and given > arguments):
            return True
        hooks = {
            ConnectDeclaration: "(self, conn)",
            DisconnectDeclaration: "(self, conn) or (self, conn, reason)",
            EventDeclaration: "(self, conn, payload)",
            PresenceDeclaration: "(self, room, joins, leaves)",
        }
        declared = handler.declaration
        if isinstance(declared, GuardDeclaration):
            wanted = f"(self, {', '.join(CHECK_ARGUMENTS[f'check_{declared.on}'])})"
        else:
            wanted = hooks[type(declared)]
        self._problem(handler.location, f"{handler.attribute} must take {wanted}")
        return False

    def _payload(self, handler: Handler, declaration: EventDeclaration) -> PayloadType:
        source = declaration.schema
        if source is None:
            names = self._positional(handler)
            source = self._hints(handler).get(names[2]) if len(names) >= 3 else None
        return self._typed(handler, "payload", source) or ANY_PAYLOAD

    def _answer(self, handler: Handler, declaration: EventDeclaration) -> PayloadType | None:
        hint = self._hints(handler).get("return")
        if hint is None or hint is type(None) or declaration.kind != "event":
            return None
        return self._typed(handler, "returned value", hint)

    def _typed(self, handler: Handler, what: str, source: Any) -> PayloadType | None:
        try:
            return payload_type(source)
        except (SchemaError, TypeError) as error:
            self._problem(handler.location, f"{handler.attribute}: the {what}: {error}")
            return None

    def _hints(self, handler: Handler) -> dict[str, Any]:
        try:
            return get_type_hints(handler.function, include_extras=True)
        except Exception as error:
            self._problem(handler.location, f"{handler.attribute}: an annotation cannot be read: {error}")
            return {}

    def _injected(self, handler: Handler, skip: int) -> tuple[Dependency, ...]:
        return self._dependencies(handler.location, lambda: call_dependencies(handler.function, skip=skip))

    def _dependencies(
        self, location: SourceLocation, read: Callable[[], tuple[Dependency, ...]]
    ) -> tuple[Dependency, ...]:
        try:
            return read()
        except DIError as error:
            for problem in error.problems:
                self._problem(location, problem.message)
            return ()
