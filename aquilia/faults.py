"""Faults: errors that a user of the application is told about, in one shape over HTTP and WebSocket."""

from __future__ import annotations

import copy
import enum
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

__all__ = ["Fault", "FaultDomain", "FaultEngine", "Severity"]

logger = logging.getLogger("aquilia.faults")


class FaultDomain(enum.StrEnum):
    """The part of the system in which a fault arose."""

    CONFIG = "config"
    REGISTRY = "registry"
    DI = "di"
    ROUTING = "routing"
    SECURITY = "security"
    NETWORK = "network"
    MODEL = "model"
    SYSTEM = "system"


class Severity(enum.StrEnum):
    """How bad a fault is for whoever runs the application, in rising order."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"
    FATAL = "fatal"

    @property
    def log_level(self) -> int:
        """The level of the `logging` module that stands for this severity."""
        return _LOG_LEVELS[self]


_LOG_LEVELS = {
    Severity.INFO: logging.INFO,
    Severity.WARN: logging.WARNING,
    Severity.ERROR: logging.ERROR,
    Severity.FATAL: logging.CRITICAL,
}


class Fault(Exception):
    """An error with a stable code, safe to show to the peer.

    `message` and `details` reach the client as they are, so never put a secret into them.
    `status` is the HTTP status that answers a request which ended in this fault.
    """

    shown: str | None = None
    """What the client is told in the place of `message`, which then is for the log alone."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        domain: FaultDomain = FaultDomain.SYSTEM,
        severity: Severity = Severity.ERROR,
        retryable: bool = False,
        status: int = 500,
        details: Sequence[Any] = (),
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.domain = domain
        self.severity = severity
        self.retryable = retryable
        self.status = status
        self.details = list(details)

    @property
    def recoverable(self) -> bool:
        """Whether the connection or process that met this fault goes on."""
        return self.severity is not Severity.FATAL

    def as_dict(self) -> dict[str, Any]:
        """What a client sees: code, message, retryable, and details where there are any."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.details:
            body["details"] = self.details
        body["retryable"] = self.retryable
        return body

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


E_ = TypeVar("E_", bound=Exception)
Translation = Callable[[Any], Fault]
Observer = Callable[[Fault, str], None]


class FaultEngine:
    """Turns whatever a handler raised into a `Fault`, and tells its observers.

    An exception that is no fault, and for which no translation is registered, is a defect of the
    application: it is logged with its traceback under an incident id, and the peer learns that id only.
    """

    def __init__(self) -> None:
        self._translations: dict[type[Exception], Translation] = {}
        self._observers: list[Observer] = []

    def translate(self, exception: type[E_], into: Callable[[E_], Fault]) -> None:
        """Answer `exception` and its subclasses with the fault that `into` returns; the nearest class wins."""
        self._translations[exception] = into

    def observe(self, observer: Observer) -> None:
        """Call `observer(fault, where)` for every fault that is answered; `where` names the handler."""
        self._observers.append(observer)

    def process(
        self,
        error: Exception,
        where: str,
        *,
        internal: Callable[[str], Fault],
        about: Mapping[str, Any] = MappingProxyType({}),
    ) -> Fault:
        """The fault that answers `error`, which came out of `where`.

        `internal` makes the fault for an unforeseen error from its incident id. The log's record of it has
        `incident`, `code`, `where`, and what `about` tells of the client, as attributes.
        """
        fault = error if isinstance(error, Fault) else self._translated(error)
        if fault is None:
            incident = secrets.token_hex(6)
            fault = internal(incident)
            told = {**about, "incident": incident, "code": fault.code, "where": where}
            logger.error("%s failed, incident %s", where, incident, exc_info=error, extra=told)
        for observer in self._observers:
            try:
                observer(fault, where)
            except Exception:
                logger.exception("an observer of faults failed at %s", fault)
        if fault.shown is not None:
            logger.info("%s: %s", where, fault)
            fault = copy.copy(fault)
            fault.message, fault.shown = str(fault.shown), None
        return fault

    def _translated(self, error: Exception) -> Fault | None:
        for kind in type(error).__mro__:
            translation = self._translations.get(kind)
            if translation is not None:
                return self._fault_of(translation, error)
        return None

    def _fault_of(self, translation: Translation, error: Exception) -> Fault | None:
        kind = type(error).__name__
        try:
            fault: object = translation(error)
        except Exception:
            logger.exception("the translation of %s failed", kind)
            return None
        if isinstance(fault, Fault):
            return fault
        logger.error("the translation of %s returned %r: it must return a Fault", kind, fault)
        return None
