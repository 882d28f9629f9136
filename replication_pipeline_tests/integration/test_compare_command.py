"""``compare`` as it is called: what it prints and writes, its exit status, its words for mistakes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import yaml
from typer.testing import CliRunner, Result

from replication_pipeline import definitions, difference_files
from replication_pipeline.cli.main import app
from replication_pipeline.domain.comparison import Comparison, Difference, Seen
from replication_pipeline.domain.errors import ConfigurationError, ReplicationError
from replication_pipeline.postgres import compare_settling
from replication_pipeline.settings import load_settings
from replication_pipeline_tests.acceptance.test_command_line import configuration
from replication_pipeline_tests.conftest import Contour, MakeContours
from replication_pipeline_tests.integration.commands import logging_left_alone

pytestmark = pytest.mark.integration


def compared(contours: list[Contour], path: Path, *words: object) -> Result:
    """Run a command of the first one, which knows the others."""
    first, *others = contours
    file = Path(configuration(path, first))
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["compare"] = {"contours": {c.name: {"dsn": c.dsn} for c in others}, "patience": 0}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    with logging_left_alone():
        return CliRunner().invoke(
            app, [*map(str, words), "--config", str(file)], env={"COLUMNS": "240"}
        )


def refused(result: Result) -> ReplicationError:
    assert isinstance(result.exception, ReplicationError), result.exception
    return result.exception


def test_what_it_prints_and_writes(
    make_contours: MakeContours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = contours = make_contours(
        "create table users (id bigint primary key, name text, secret text)", ["users"]
    )
    for contour in contours:
        contour.run("set session_replication_role = replica")
        contour.run(
            "insert into users select n, 'n', 'hidden', 1024000000::bigint * n + 1 "
            "from generate_series(1, 9) n"
        )
    equal = compared(contours, tmp_path, "compare")
    assert (equal.exit_code, equal.stdout) == (0, "users: equal (rows: 9 in a, 9 in b)\n")

    b.run("update users set secret = 'shown' where id = 2")
    b.run("delete from users where id = 3")
    a.run("delete from users where id = 4")
    a.run(
        "insert into replication.replication_tombstones (table_name, record_key, version) "
        "values ('users', '{\"id\":4}', 9216000002)"
    )
    unknown = compared(contours, tmp_path, "compare", "users")
    assert unknown.exit_code == 1
    assert "users: not known" in unknown.stdout
    assert "3 rows differ, and may only be under way" in unknown.stdout
    assert "contour b has not taken in what a wrote until" in unknown.stdout

    monkeypatch.setattr(compare_settling, "settled", lambda *_: ())
    found = compared(contours, tmp_path, "compare", "--with", "b")
    assert found.exit_code == 1
    lines = [line.split("  ") for line in found.stdout.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells == [
        ["users: 3 differ (rows: 8 in a, 8 in b)"],
        ["key", "a", "b", "columns"],
        ['{"id":2}', *(["1970-01-01 00:00:02.000000 by a"] * 2), "secret"],
        ['{"id":3}', "1970-01-01 00:00:03.000000 by a", "missing"],
        ['{"id":4}', "deleted 1970-01-01 00:00:09.000000 by b", "1970-01-01 00:00:04.000000 by a"],
    ]
    assert "shown" not in found.stdout
    assert "secret=shown" in compared(contours, tmp_path, "compare", "--values").stdout

    told = json.loads(compared(contours, tmp_path, "compare", "--json").stdout)
    assert (told["equal"], told["contours"]) == (False, {"a": 1, "b": 2})
    (table,) = told["tables"]
    assert {name: table[name] for name in table if name not in ("seconds", "differences")} == {
        "table": "users", "equal": False, "settled": True, "complete": True,
        "rows": {"a": 8, "b": 8}, "differing": 3, "unsettled": 0, "written_meanwhile": 0,
        "waiting_for": [], "notes": [],
    }  # fmt: skip
    assert table["differences"][2] == {
        "key": '{"id":4}',
        "key_parts": ["4"],
        "columns": [],
        "contours": {
            "a": {"state": "deleted", "version": "9216000002"},
            "b": {"state": "row", "version": "4096000001"},
        },
    }
    for kind in ("csv", "json"):
        file = tmp_path / f"found.{kind}"
        assert compared(contours, tmp_path, "compare", "--output", file).exit_code == 1
        back = difference_files.read(file, "users")
        assert [(d.key, d.parts) for d in back] == [(f'{{"id":{n}}}', (str(n),)) for n in (2, 3, 4)]
        assert back[2].seen == {"a": Seen(buried=9216000002), "b": Seen(version=4096000001)}
        assert back[1].seen["b"] == Seen()

    one = compared(contours, tmp_path, "compare", "--max-differences", 1)
    assert "users: at least 1 differ" in one.stdout
    assert "there are more: --max-differences" in one.stdout


def test_the_jobs_do_the_same(
    make_contours: MakeContours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = make_contours("create table users (id bigint primary key, n text)", ["users"])
    file = Path(configuration(tmp_path, a))
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["compare"] = {"contours": {"b": {"dsn": b.dsn}}, "patience": 0}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.setenv("REPLICATION_CONFIG", str(file))
    monkeypatch.setattr(compare_settling, "settled", lambda *_: ())
    repository = definitions.build(load_settings()).get_repository_def()

    def run(job: str, **form: Any) -> tuple[bool, str]:
        """Whether it went well, and all that its page shows."""
        op = {"compare": "compare_tables", "repair": "repair_rows"}[job]
        with dg.DagsterInstance.ephemeral() as instance:
            result = repository.get_job(job).execute_in_process(
                instance=instance,
                run_config={"ops": {op: {"config": form}}},
                raise_on_error=False,
            )
            events = instance.all_logs(result.run_id)
        return result.success, "\n".join(str(event.dagster_event) for event in events)

    assert run("compare")[0]
    for contour, rows in ((a, "(1, 'x', 5), (2, 'x', 5)"), (b, "(1, 'y', 5)")):
        contour.run("set session_replication_role = replica")
        contour.run(f"insert into users (id, n, replication_version) values {rows}")
    good, shown = run("compare", tables=["users"])
    assert not good
    assert "users: 2 differ" in shown
    assert "missing" in shown
    good, shown = run("repair", table="users")
    assert good
    assert "contour a sends its row again, as it is: 1" in shown
    assert "contour a sends its row as a newer one: 1" in shown
    assert a.queue() == []
    good, shown = run("repair", table="users", apply=True, winner="b")
    assert not good, "without publishers it can't be equal yet"
    assert [(op, key) for op, key, _ in b.queue()] == [("SNAPSHOT", '{"id":1}')]
    assert [(op, key) for op, key, _ in a.queue()] == [("DELETE", '{"id":2}')]
    assert a.run("select id from users") == [(1,)], "b has no row 2, so it is deleted"
    assert "is not equal yet" in shown
    assert "winner z: no contour" in run("repair", table="users", winner="z")[1]
    assert "contour z: compare.contours" in run("compare", contours=["z"])[1]
    assert "table nope is not configured" in run("repair", table="nope")[1]


def test_the_rights_that_it_takes(
    make_contours: MakeContours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Roles that belong to replication_consumer repair; others are told what they lack."""
    a, b = make_contours("create table users (id bigint primary key, n text)", ["users"])
    for role, group in (("mender", "replication_consumer"), ("looker", "replication_monitor")):
        b.run(f"drop role if exists {role}")
        b.run(f"create role {role} login in role {group}")
    b.run("grant select on users to looker")
    for contour, rows in ((a, "(1, 'x', 5), (2, 'x', 5)"), (b, "(1, 'y', 5), (3, 'y', 5)")):
        contour.run("set session_replication_role = replica")
        contour.run(f"insert into users (id, n, replication_version) values {rows}")
    b.run(
        "insert into replication.replication_tombstones (table_name, record_key, version) "
        "values ('users', '{\"id\":2}', 7)"
    )
    monkeypatch.setattr(compare_settling, "settled", lambda *_: ())

    def repair(user: str, *words: str) -> Result:
        there = replace(b, dsn=psycopg.conninfo.make_conninfo(b.dsn, user=user))
        return compared([a, there], tmp_path, "repair", "users", *words)

    assert "contour b sends its delete again: 1" in repair("looker").stdout
    error = refused(repair("looker", "--apply"))
    assert "contour b: role looker may not repair table users" in error.message
    assert error.remedy == "in that database: grant replication_consumer to looker"
    assert a.queue() == b.queue() == []
    told = repair("mender", "--apply").stdout
    assert "contour b sends its delete again: 1 sent" in told
    assert "contour b sends its row again, as it is: 1 sent" in told
    assert sorted(op for op, *_ in b.queue()) == ["DELETE", "SNAPSHOT"]
    b.run("drop owned by looker, mender; drop role looker, mender")


def test_counters_are_left_alone(
    make_contours: MakeContours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their sums are made of what each contour adds; a row that replaces all of it would lose that."""
    contours = make_contours(
        "create table users (id bigint primary key, n int not null)",
        {"users": {"delta_columns": ["n"]}},
    )
    for contour in contours:
        contour.run("set session_replication_role = replica")
        contour.run(
            f"insert into users (id, n, replication_version) values (1, {ord(contour.name)}, 5)"
        )
    monkeypatch.setattr(compare_settling, "settled", lambda *_: ())
    told = compared(contours, tmp_path, "repair", "users", "--apply")
    assert told.exit_code == 1
    assert "left alone: 1, its counters are sums of what each contour adds" in told.stdout
    assert contours[0].queue() == []


def test_what_it_says_to_mistakes(make_contours: MakeContours, tmp_path: Path) -> None:
    contours = make_contours("create table users (id bigint primary key)", ["users"])

    def mistake(*words: object) -> tuple[int, str]:
        error = refused(compared(contours, tmp_path, "compare", *words))
        assert error.remedy
        return error.exit_code, error.message

    assert mistake("orders") == (2, "table orders is not configured")
    assert mistake("--with", "z") == (2, "--with z: compare.contours does not name it")
    assert mistake("--patience", "soon") == (2, "--patience soon is no length of time")
    assert mistake("--where", "nonsense")[0] == 2
    assert "not a kind of file" in mistake("--output", "found.xls")[1]
    assert "no such folder" in mistake("--output", tmp_path / "none" / "found.csv")[1]
    alone = refused(compared(contours[:1], tmp_path, "compare"))
    assert (alone.exit_code, alone.message) == (2, "there is no contour to compare with")
    contours[1].dsn = "host=127.0.0.1 port=1 connect_timeout=2"
    away = refused(compared(contours, tmp_path, "compare"))
    assert away.exit_code == 3
    assert "contour b" in away.message


def test_parquet_without_pyarrow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference_files, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match="Parquet needs pyarrow"):
        difference_files.refuse_unfit_file(tmp_path / "found.parquet", "--output")


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "[1]", '{"tables": 7}'])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: str) -> None:
    for kind in ("csv", "json"):
        file = tmp_path / f"x.{kind}"
        with pytest.raises(ConfigurationError, match=f"x.{kind}: there is no such file"):
            difference_files.read(file, "users")
        file.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigurationError, match="no file that compare has written"):
            difference_files.read(file, "users")


def test_odd_keys_and_values_survive_a_file(tmp_path: Path) -> None:
    key = Difference(
        '{"k":"a,\\"b\\n=x"}', ('a,"b\n=x', "NA"), {"a": Seen(5, 1), "b": Seen()}, ("x",),
        {"a": {"x": None}},
    )  # fmt: skip
    file = tmp_path / "x.csv"
    difference_files.write(file, [Comparison("t", {"a": 1, "b": 0}, (key,))])
    (back,) = difference_files.read(file, "t")
    assert (back.key, back.parts, back.seen) == (key.key, key.parts, {"a": Seen(5), "b": Seen()})
    assert difference_files.read(file, "u") == []
