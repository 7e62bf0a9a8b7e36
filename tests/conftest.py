"""Habits of every test: no silent skips in CI, and property tests that CI can repeat."""

import os

import hypothesis
import pytest

pytest.register_assert_rewrite("aquilia.testing.adapters")

CI = os.environ.get("CI", "").lower() in {"1", "true"}

hypothesis.settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
hypothesis.settings.register_profile("dev", max_examples=50, deadline=None)
hypothesis.settings.load_profile("ci" if CI else "dev")


class NothingLeftOut:
    """Fails a session in which a test was skipped, or marked as expected to fail.

    Elsewhere pytest lists the skipped ones and says what each of them needs; in CI all of that is installed.
    """

    def __init__(self) -> None:
        self.left_out: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped or hasattr(report, "wasxfail"):
            self.left_out.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.left_out.append(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.left_out and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.left_out:
            terminalreporter.section("left out, which CI does not allow", red=True)
            for nodeid in dict.fromkeys(self.left_out):
                terminalreporter.line(nodeid)


def pytest_configure(config: pytest.Config) -> None:
    if CI:
        config.pluginmanager.register(NothingLeftOut(), "nothing-left-out")
