"""The table of promises by adapter says what the tests of each adapter inherit."""

from __future__ import annotations

import promises
import pytest

from aquilia.testing.adapters import SUITES, promises_of


def test_the_table_of_the_page_is_what_the_tests_of_the_adapters_inherit() -> None:
    assert promises.on_the_page() == promises.written(), "make promises writes it anew"


def test_every_test_of_a_suite_is_one_of_a_promise() -> None:
    tests = [test for suite in SUITES for name, test in vars(suite).items() if name.startswith("test_")]
    assert [test.__name__ for test in tests if not hasattr(test, "promise")] == []


@pytest.mark.parametrize("test", [test for row in promises.BY_ONE_TEST.values() for test in row.values()])
def test_what_no_suite_has_is_shown_by_a_test_that_exists(test: str) -> None:
    file, _, name = test.partition("::")
    assert f"def {name.partition('[')[0]}(" in (promises.TESTS / "sockets" / file).read_text()


def test_no_reason_is_left_that_nothing_needs() -> None:
    needed = {(column, why) for row in promises.rows() for column, why in row.why.items() if why}
    given = {(column, why) for column, suites in promises.WHY.items() for why in suites.values()}
    assert given | set(promises.WHY_NO_TEST.items()) == needed


def test_every_adapter_has_classes_of_tests() -> None:
    assert all(promises.classes().values())


def test_one_test_that_is_left_out_is_a_promise_that_is_not_kept() -> None:
    (store,) = [suite for suite in SUITES if suite.__name__ == "StoreContract"]
    whole = type("TestWhole", (store,), {})
    less = type("TestLess", (store,), {"test_a_value_expires_after_its_time_to_live": None})
    assert set(promises_of([store], [whole]).values()) == {True}
    assert list(promises_of([store], [less]).values()) == [True, False]
