"""What the page on scaling promises of faults: for each row there is a test that brings the fault about."""

from __future__ import annotations

import re

import pytest
from documents import ROOT

TESTED = {
    "A node is killed": "sockets/test_presence_nodes.py::test_who_was_on_a_node_that_is_killed_has_left",
    "A worker of `aq serve --workers 4` is killed": (
        "cli/test_cli_workers_killed.py::test_who_was_at_a_killed_worker_has_left_or_is_back_and_missed_nothing"
    ),
    "A node stands still, or its loop is blocked, for up to three seconds": (
        "sockets/test_faults_nodes.py::"
        "test_a_node_that_stands_still_for_three_seconds_loses_no_member_and_no_message"
    ),
    "A node stands still for longer than four seconds": (
        "sockets/test_faults_nodes.py::test_a_node_that_was_frozen_for_longer_than_a_lease_says_anew_who_is_on_it"
    ),
    "A node takes nothing from the broker": (
        "sockets/test_faults_nodes.py::test_a_node_that_takes_nothing_slows_nobody_and_is_told_what_it_lost"
    ),
    "The broker is killed, or refuses connections": (
        "sockets/test_faults_broker.py::test_a_node_whose_broker_is_away_serves_its_own_and_keeps_its_word"
    ),
    "The broker stands still, or the network swallows all": (
        "sockets/test_faults_broker.py::"
        "test_what_is_asked_as_the_broker_falls_silent_is_answered_and_works_again_afterwards"
    ),
    "One node alone is cut off": (
        "sockets/test_faults_broker.py::"
        "test_one_node_that_is_cut_off_alone_is_taken_for_dead_and_nobody_else_is_told_of_a_loss"
    ),
    "The broker comes back empty": (
        "sockets/test_faults_broker.py::test_a_broker_that_comes_back_empty_begins_anew_and_its_nodes_go_on"
    ),
    "The broker refuses the login, or has another certificate": (
        "sockets/test_faults_broker.py::test_a_broker_with_another_password_is_told_from_one_that_is_away"
    ),
    "A [store apart](BROKERS.md#a-store-apart-from-the-broker) from the broker is killed, or refuses connections": (
        "sockets/test_store_apart.py::"
        "test_what_needs_the_store_fails_while_it_is_away_and_works_again_afterwards"
    ),
    "One of three servers of a NATS cluster is killed": (
        "sockets/test_nats_cluster.py::test_nothing_acknowledged_is_lost_or_doubled_when_the_leader_is_killed"
    ),
    "The master of a Redis Cluster, or of sentinels, is killed": (
        "sockets/test_redis_failover.py::"
        "test_what_one_replica_has_is_kept_and_stored_once_when_its_master_is_killed"
    ),
}


def test_each_fault_of_the_page_is_brought_about_by_a_test() -> None:
    section = (ROOT / "docs" / "SCALING.md").read_text().partition("## What happens when\n")[2]
    rows = re.findall(r"^\| (.*?) \|", section.partition("\n## ")[0], re.MULTILINE)[1:]
    assert [row for row in rows if row != "---"] == list(TESTED)


@pytest.mark.parametrize("test", TESTED.values())
def test_the_test_exists(test: str) -> None:
    file, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / "tests" / file).read_text()
