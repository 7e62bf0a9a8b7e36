"""What came of a soak: a table, and what must not be in it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from peers import Place, Publisher, Seen, Subscriber

HEAD = (
    *("subscriber", "room", "resumed", "elsewhere", "got", "lost", "doubled", "disorder"),
    *("said twice", "gaps told", "within"),
)


@dataclass
class Report:
    """The table, and what must not be in it."""

    rows: list[tuple[str, ...]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def show(self) -> None:
        """Print the table."""
        rows = [HEAD, *self.rows]
        widths = [max(len(row[n]) for row in rows) for n in range(len(HEAD))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def wanted(publishers: Iterable[Publisher]) -> dict[str, set[int]]:
    """What was acked, by room."""
    found: dict[str, set[int]] = {}
    for publisher in publishers:
        found.setdefault(publisher.room, set()).update(publisher.acked)
    return found


def judge(subscribers: list[Subscriber], publishers: list[Publisher]) -> Report:
    """Compare what was acked with what came."""
    report = Report()
    due = wanted(publishers)
    places: dict[int, set[Place]] = {}
    for subscriber in subscribers:
        for room, seen in subscriber.seen.items():
            for place, number in seen.items if room.startswith("room ") else ():
                places.setdefault(number, set()).add(place)
    for subscriber in subscribers:
        for room, seen in subscriber.seen.items():
            if room.startswith("room "):
                row, found = _remembered(seen, due[room], places, publishers)
            else:
                row, found = _plain(seen, due[room], {n for each in publishers for n in each.rough})
            name = (subscriber.name, room, str(subscriber.resumed), str(subscriber.moved))
            report.rows.append((*name, *row))
            report.problems += [f"subscriber {subscriber.name}, {room}: {each}" for each in found]
        report.problems += [f"subscriber {subscriber.name}: {each}" for each in _sessions(subscriber)]
    report.problems += _handled_twice(publishers, places)
    if not any(subscriber.moved for subscriber in subscribers):
        report.problems.append("nobody came back to another node")
    return report


def _remembered(
    seen: Seen, due: set[int], places: dict[int, set[Place]], publishers: list[Publisher]
) -> tuple[tuple[str, ...], list[str]]:
    """A room with history: all of it, once, in the log's order and in that of each publisher."""
    missing = sorted(due - seen.numbers)
    lost = [n for n in missing if not any(_excused(place, seen.excused) for place in places.get(n, ()))]
    doubled = len(seen.items) - len({place for place, _ in seen.items})
    disorder = sum(
        before[0][0] == after[0][0] and before[0][1] >= after[0][1]
        for before, after in zip(seen.items, seen.items[1:], strict=False)
    )
    first = list(dict.fromkeys(number for _, number in seen.items))
    for publisher in publishers:
        own = [number for number in first if number in publisher.numbers]
        disorder += sum(before > after for before, after in itertools.pairwise(own))
    problems = [f"{len(lost)} lost: {[(n, places.get(n)) for n in lost[:5]]}"] if lost else []
    problems += [f"{doubled} doubled"] if doubled else []
    problems += [f"{disorder} out of order"] if disorder else []
    twice = len(seen.items) - len(first)
    return _cells(seen, len(lost), doubled, disorder, twice, len(missing) - len(lost)), problems


def _excused(place: Place, gaps: list[tuple[Place | None, Place | None]]) -> bool:
    """Whether a gap was told where this would have been."""
    for before, behind in gaps:
        after_it = before is None or before[0] != place[0] or place[1] > before[1]
        before_it = behind is None or behind[0] != place[0] or place[1] <= behind[1]
        if after_it and before_it:
            return True
    return False


def _plain(seen: Seen, due: set[int], rough: set[int]) -> tuple[tuple[str, ...], list[str]]:
    """A room without: one publisher says rising numbers, and what does not come is covered by a gap."""
    numbers = [number for _, number in seen.items]
    holes = []
    for at in seen.gaps_at:
        low = max(numbers[:at], default=-1)
        holes.append((low, next((number for number in numbers[at:] if number > low), None)))
    missing = sorted(due - seen.numbers)
    lost = [n for n in missing if not any(low < n and (high is None or n < high) for low, high in holes)]
    problems = [f"{len(lost)} lost without a word: {lost[:5]}"] if lost else []
    doubled = sum(count > 1 and number not in rough for number, count in Counter(numbers).items())
    problems += [f"{doubled} doubled"] if doubled else []
    twice = len(numbers) - len(seen.numbers)
    return _cells(seen, len(lost), doubled, 0, twice, len(missing) - len(lost)), problems


def _cells(seen: Seen, lost: int, doubled: int, disorder: int, twice: int, covered: int) -> tuple[str, ...]:
    causes = ", ".join(sorted(set(seen.told))) or "-"
    counts = (len(seen.items), lost, doubled, disorder, twice)
    return (*map(str, counts), f"{len(seen.told)} {causes}", str(covered))


def _sessions(subscriber: Subscriber) -> Iterator[str]:
    if len(subscriber.sessions) != 1:
        yield f"it had {len(subscriber.sessions)} sessions"
    if subscriber.put_out:
        yield f"it was put out of {subscriber.put_out}"
    lost = [number for number in subscriber.bookings if not subscriber.booked[number]]
    if lost:
        yield f"{len(lost)} of {len(subscriber.bookings)} durable events lost: {lost[:5]}"
    twice = [n for n, count in subscriber.booked.items() if count > 1 and n not in subscriber.rough]
    if twice:
        yield f"{len(twice)} of {len(subscriber.bookings)} durable events came twice: {twice[:5]}"


def _handled_twice(publishers: list[Publisher], places: dict[int, set[Place]]) -> Iterator[str]:
    """What takes effect once did so, but where it was in the hands of somebody who was killed."""
    for publisher in publishers:
        if publisher.event == "say":
            twice = [n for n in publisher.acked if len(places.get(n, ())) > 1 and n not in publisher.rough]
            if twice:
                yield f"{publisher.room}: {len(twice)} that take effect once did so twice: {twice[:5]}"


def presence(subscribers: list[Subscriber], who: dict[str, list[set[str]]]) -> Iterator[str]:
    """What is wrong with who is said to be present: by the servers that were asked, and by what members were told."""
    for room, answers in who.items():
        there = {subscriber.sessions[-1] for subscriber in subscribers if room in subscriber.seen}
        for answer in answers:
            if answer != there:
                yield (
                    f"{room} has {len(there)} members; its presence lacks {len(there - answer)} and has "
                    f"{len(answer - there)} ghosts"
                )
        for subscriber in subscribers:
            if room in subscriber.seen and subscriber.rosters[room].ids != there:
                yield f"subscriber {subscriber.name} was told of others in {room} than those who are there"
