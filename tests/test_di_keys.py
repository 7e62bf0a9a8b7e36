"""The types that a service is looked up by, and the factories that make it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Annotated, Generic, NewType, Protocol, TypeVar

import msgspec
import pytest
from typing_extensions import TypeAliasType

from aquilia.di import DIError, Services, service

T = TypeVar("T")


class Engine: ...


class Session: ...


class User: ...


@service(scope="singleton")
class Journal: ...


@service(scope="singleton")
class Clock: ...


async def test_async_and_plain_factories_make_what_they_are_annotated_with():
    @service(scope="singleton")
    async def make_engine() -> Engine:
        await asyncio.sleep(0)
        return Engine()

    @service(scope="singleton")
    def make_session(engine: Engine) -> Session:
        assert isinstance(engine, Engine)
        return Session()

    async with Services.build([make_engine, make_session]) as services:
        assert isinstance(await services.root.get(Session), Session)


class Port(Protocol):
    def send(self) -> str: ...


class Store(ABC):
    @abstractmethod
    def read(self) -> str: ...


@service(scope="singleton", provides=[Port, Store])
class Both(Store, Port):
    def send(self) -> str:
        return "sent"

    def read(self) -> str:
        return "read"


async def test_one_instance_serves_every_type_that_it_is_provided_as():
    async with Services.build([Both]) as services:
        assert await services.root.get(Port) is await services.root.get(Store)
        with pytest.raises(DIError, match="nothing provides Both"):
            await services.root.get(Both)


async def test_a_transient_can_be_provided_as_several_types():
    async with Services.build(
        [service(scope="transient", provides=(Port, Store))(type("B", (Both,), {}))]
    ) as services:
        assert await services.root.get(Port) is not await services.root.get(Store)


class Table(Generic[T]):
    def __init__(self, kind: type[T]) -> None:
        self.kind = kind


service(scope="singleton")(Table)


class Rows(Generic[T]):
    def __init__(self, table: Table[T]) -> None:
        self.table = table


@service(scope="singleton")
class UserRows(Rows[User]): ...


class Middle(Rows[list[T]], Generic[T]): ...


@service(scope="singleton")
class ListRows(Middle[User]): ...


async def test_a_generic_service_provides_its_special_cases():
    async with Services.build([Table, UserRows, ListRows]) as services:
        assert (await services.root.get(Table[User])).kind is User
        assert (await services.root.get(UserRows)).table.kind is User
        assert (await services.root.get(ListRows)).table.kind == list[User]
        assert await services.root.get(Table[User]) is (await services.root.get(UserRows)).table


Dsn = NewType("Dsn", str)
Address = TypeAliasType("Address", Dsn)


@service(scope="singleton")
def dsn() -> Dsn:
    return Dsn("db://here")


async def test_new_types_aliases_and_annotated_hints_are_keys():
    async with Services.build([dsn]) as services:
        assert await services.root.get(Dsn) == "db://here"
        assert await services.root.get(Annotated[Dsn, "metadata"]) == "db://here"
        assert await services.root.get(Annotated[Dsn, {"unhashable": "metadata"}]) == "db://here"
        assert await services.root.get(Address) == "db://here"


@service(scope="singleton")
class Config(msgspec.Struct):
    clock: Clock
    name: str = "unnamed"
    journal: Journal | None = None


@service(scope="singleton")
class Optionals:
    def __init__(self, repo: Clock | None = None, dsn: Dsn = Dsn("default"), limit: int = 3) -> None:
        self.clock, self.dsn, self.limit = repo, dsn, limit


async def test_a_parameter_with_a_default_takes_it_where_nothing_provides_its_type():
    async with Services.build([Optionals]) as bare:
        optionals = await bare.root.get(Optionals)
        assert (optionals.clock, optionals.dsn, optionals.limit) == (None, "default", 3)
    async with Services.build([Optionals, Clock, dsn]) as full:
        optionals = await full.root.get(Optionals)
        assert optionals.clock is await full.root.get(Clock)
        assert (optionals.dsn, optionals.limit) == ("db://here", 3)


async def test_the_fields_of_a_model_are_its_dependencies():
    async with Services.build([Config, Clock, Journal]) as services:
        config = await services.root.get(Config)
        assert config.clock is await services.root.get(Clock)
        assert config.journal is await services.root.get(Journal)
        assert config.name == "unnamed"
