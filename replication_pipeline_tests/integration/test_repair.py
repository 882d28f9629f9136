"""``repair`` ends equal in all contours, whatever the damage, and overwrites nothing newer."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from replication_pipeline.domain.comparison import Comparison
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.postgres.compare_contours import open_contours
from replication_pipeline.postgres.comparison import compare_table
from replication_pipeline.postgres.repair import Repair, Wanted, repair_table
from replication_pipeline_tests.applying import applying
from replication_pipeline_tests.conftest import Contour, MakeContours, same_rows, settle
from replication_pipeline_tests.integration.test_compare_command import compared
from replication_pipeline_tests.integration.test_comparison import OPTIONS, comparing
from replication_pipeline_tests.publishing import log_of, publishing, until

pytestmark = pytest.mark.integration

DDL = "create table users (site text, id int, name text, primary key (id, site))"
KEY = '{{"id":{},"site":"ü"}}'
FAR = "(extract(epoch from timestamptz '2100-01-01') * 1000000)::bigint << 10"


@contextmanager
def damage(contour: Contour) -> Iterator[Contour]:
    """Past the triggers, as after a restore."""
    contour.run("set session_replication_role = replica")
    yield contour
    contour.run("reset session_replication_role")


@contextmanager
def alive(contours: list[Contour]) -> Iterator[None]:
    with ExitStack() as stack:
        for contour in contours:
            stack.enter_context(publishing(contour.settings))
            stack.enter_context(applying(contour.settings))
        yield


@contextmanager
def writing(contours: list[Contour]) -> Iterator[None]:
    """Each writes rows 90 to 99, which the others write as well, one at a time, deletes among them."""
    stop = threading.Event()

    def write(contour: Contour) -> None:
        with contour.session(autocommit=True) as session:
            for turn, key in enumerate(itertools.cycle(range(90, 100))):
                session.execute(
                    "delete from users where id = %s" if turn % 7 == 0 else
                    "insert into users values ('ü', %s, md5(random()::text)) "
                    "on conflict (id, site) do update set name = excluded.name",
                    [key],
                )  # fmt: skip
                if stop.wait(0.02):
                    return

    writers = [threading.Thread(target=write, args=(contour,)) for contour in contours]
    for writer in writers:
        writer.start()
    try:
        yield
    finally:
        stop.set()
        for writer in writers:
            writer.join()


def compare(contours: list[Contour]) -> Comparison:
    settings = comparing(contours)
    with open_contours(settings) as connections:
        return compare_table(connections, "users", settings)


def repair(contours: list[Contour], **wanted: Any) -> Repair:
    others = [contour.name for contour in contours[1:]]
    return repair_table(comparing(contours), Wanted("users", others, apply=True, **wanted))


def ids(found: Comparison) -> list[int]:
    return sorted(json.loads(d.key)["id"] for d in found.differences)


def names(contour: Contour) -> dict[int, str]:
    return dict(contour.run("select id, name from users where id < 90"))


def told(found: Repair) -> dict[int, tuple[str, str]]:
    return {json.loads(a.difference.key)["id"]: (a.contour, a.kind) for a in found.actions}


def test_every_kind_of_damage_is_found_and_mended_while_everybody_writes(
    make_contours: MakeContours, kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    a, b, c = contours = make_contours(DDL, ["users"], count=3, **OPTIONS)
    with alive(contours):
        a.run("insert into users select 'ü', n, 'a' || n from generate_series(1, 20) n")
        for contour in contours:
            with damage(contour):  # from before replication
                contour.run(
                    "insert into users (site, id, name, replication_version) values "
                    "('ü', 30, %s, 0)", f"old {contour.name}",
                )  # fmt: skip
        with damage(a):
            a.run(
                "insert into users (site, id, name, replication_version) values ('ü', 31, 'only a', 0)"
            )
        until(lambda: all(len(names(each)) >= 21 for each in contours), "the rows to be everywhere")
        b.run("update users set name = 'b3' where id = 3")
        b.run("delete from users where id in (4, 5)")
        for each in (a, c):
            until(
                lambda each=each: names(each).get(3) == "b3" and not {4, 5} & {*names(each)},  # type: ignore[misc]
                "b's changes to arrive",
            )
        with damage(a), damage(b), damage(c):
            a.run("delete from users where id = 1")
            b.run("delete from users where id = 1")
            c.run("update users set name = 'else' where id = 2")
            a.run("update users set name = 'old', replication_version = 5 where id = 3")
            insert = (
                "insert into users (site, id, name, replication_version) values ('ü', %s, %s, %s)"
            )
            for key in (4, 5):
                c.run(insert, key, "back", 7)
            c.run(
                "delete from replication.replication_tombstones where record_key = %s",
                KEY.format(4),
            )
            b.run(insert, 5000, "extra", 77)
            b.run(f"update users set replication_version = {FAR} where id = 6")
        with writing(contours):
            found = compare(contours)
            assert ids(found) == [1, 2, 3, 4, 5, 6, 30, 31, 5000]
            columns = {json.loads(d.key)["id"]: d.columns for d in found.differences}
            assert (columns[2], columns[3], columns[1]) == (("name",), ("name",), ())

            file = tmp_path / "found.csv"
            assert (
                compared(
                    contours, tmp_path, "compare", "--patience", "30s", "--output", file
                ).exit_code
                == 1
            )
            assert sorted(json.loads(d.key)["id"] for d in read(file)) == ids(found)
            before = [contour.queue() for contour in contours]
            dry = compared(
                contours, tmp_path, "repair", "users", "--from", file, "--patience", "30s"
            )
            assert dry.exit_code == 1, dry.exception
            assert "contour c sends its row again, as it is: 1" in dry.stdout
            assert (
                "Nothing was written. To do it: replication-pipeline repair users --apply"
                in dry.stdout
            )
            for contour, queue in zip(contours, before, strict=True):
                new = contour.queue()[len(queue) :]
                assert all(json.loads(key)["id"] in range(90, 100) for _, key, _ in new)

            c.run("update users set name = 'newer' where id = 2")  # after the file
            mended = repair(contours, seen=read(file))
        assert told(mended) == {
            1: ("c", "send"), 3: ("b", "send"), 4: ("a", "send_delete"), 5: ("c", "delete"),
            30: ("a", "raise"), 31: ("a", "raise"), 5000: ("b", "send"),
        }  # fmt: skip
        assert {(json.loads(x.difference.key)["id"], x.why[:13]) for x in mended.left} <= {
            (2, "changed since"), (6, "its version i"),
        }  # fmt: skip
        assert mended.verdict is not None
        assert mended.verdict.equal
        assert not mended.equal, "row 6 is left alone"
        until(lambda: names(a)[2] == names(b)[2] == "newer", "the newer write to win")
        with damage(b):
            b.run("update users u set replication_version = %s where id = 6",
                  a.value("select replication_version from users where id = 6"))  # fmt: skip
        assert repair(contours).equal
    settle(contours)
    assert same_rows(contours, "users")
    assert names(a) == {n: f"a{n}" for n in range(1, 21) if n not in (2, 3, 4, 5)} | {
        2: "newer", 3: "b3", 30: "old a", 31: "only a",
    }  # fmt: skip
    assert a.value("select name from users where id = 5000") == "extra"
    for contour in contours:
        assert contour.value("select count(*) from replication.parked_events") == 0
    assert last_occurrences_are_the_newest(a), "for readers that take the topic as upserts"


def read(file: Path) -> Any:
    from replication_pipeline.difference_files import read

    return read(file, "users")


def last_occurrences_are_the_newest(contour: Contour) -> bool:
    """Of what one contour has sent of a key, the last is the newest."""
    last: dict[str, int] = {}
    newest: dict[str, int] = {}
    for value in log_of(contour):
        source = value["source"]
        row = value["after"] or value["before"]
        key = f"{source['contour']} {row['id']}"
        last[key] = int(source["row_version"])
        newest[key] = max(newest.get(key, 0), last[key])
    return last == newest


def test_a_named_contour_wins_but_not_over_what_was_written_since(
    make_contours: MakeContours, kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    from replication_pipeline.postgres import repair as module

    a, b, c = contours = make_contours(DDL, ["users"], count=3, **OPTIONS)
    with alive(contours):
        a.run("insert into users select 'ü', n, 'a' || n from generate_series(1, 9) n")
        until(lambda: all(len(names(each)) == 9 for each in contours), "the rows to be everywhere")
        with damage(c):
            c.run("update users set name = 'c' || id, replication_version = 5 where id < 5")
            c.run("delete from users where id = 9")
        carry_out = module._carried_out

        def late(*args: Any, **options: Any) -> Any:
            """Somebody writes after all was compared: at the winner, and elsewhere."""
            c.run("update users set name = 'own' where id = 1")
            with b.session() as held, a.session() as writer:
                held.execute("select from replication.publish_shards for update")  # not sent yet
                b.run("update users set name = 'b2' where id = 2")
                writer.execute("select from users where id = 9 for update")
                threading.Timer(0.3, writer.commit).start()
                return carry_out(*args, **options)

        monkeypatch.setattr(module, "_carried_out", late)
        mended = repair(contours, winner="c")
        outcomes = {
            json.loads(d.action.difference.key)["id"]: (d.action.contour, d.action.kind, d.outcome)
            for d in mended.done
        }
        assert outcomes == {
            1: ("c", "raise", "changed"), 2: ("c", "raise", "done"), 3: ("c", "raise", "done"),
            4: ("c", "raise", "done"), 9: ("a", "delete", "done"),
        }  # fmt: skip
        monkeypatch.undo()
        wanted = {1: "own", 2: "b2", 3: "c3", 4: "c4", 5: "a5", 6: "a6", 7: "a7", 8: "a8"}
        for contour in contours:
            until(lambda contour=contour: names(contour) == wanted, "c to win")  # type: ignore[misc]
        assert repair(contours, winner="c").equal
        assert same_rows(contours, "users")


def test_where_columns_merge(make_contours: MakeContours, kafka: EmbeddedKafka) -> None:
    """A row that is raised is a change of this contour there; one that is missing brings its state."""
    options = OPTIONS
    a, b = contours = make_contours(
        "create table users (id int primary key, name text, n int)",
        {"users": {"merge": "columns"}},
        **options,
    )
    with alive(contours):
        a.run("insert into users select n, 'a', n from generate_series(1, 5) n")
        until(lambda: len(names(b)) == 5, "the rows to arrive")
        b.run("update users set n = 7 where id < 3")
        until(
            lambda: a.value("select sum(n) from users where id < 3") == 14, "the change to arrive"
        )
        with damage(b):
            b.run("delete from users where id in (1, 5)")
            b.run("update users set name = 'else' where id in (2, 4)")
        mended = repair(contours)
        assert told(mended) == {
            1: ("a", "send"),
            2: ("a", "raise"),
            4: ("a", "raise"),
            5: ("a", "send"),
        }
        assert mended.equal
    assert same_rows(contours, "users")
