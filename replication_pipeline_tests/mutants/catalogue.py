"""The mutants of capture, publisher and applier, and what catches each.

Kafka's own offsets are never read here; instead the database's are moved too early. There is no lock
row that an insert could bump too early; instead inserts are not lifted above what they could not see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

INTEGRATION: Final = "replication_pipeline_tests/integration/"
MACHINE: Final = INTEGRATION + "test_machine.py"
RACES: Final = INTEGRATION + "test_apply_races.py"
FEW_EVENTS: Final = INTEGRATION + "test_few_events.py"
DECISIONS: Final = INTEGRATION + "test_decisions.py"
APPLY: Final = INTEGRATION + "test_apply.py"
PUBLISH: Final = INTEGRATION + "test_publish.py"
CAPTURE: Final = INTEGRATION + "test_capture.py"
HEARTBEATS: Final = INTEGRATION + "test_heartbeats.py"
SNAPSHOT: Final = INTEGRATION + "test_snapshot.py"
HOSTILE: Final = INTEGRATION + "test_hostile_input.py"
RIGHTS: Final = INTEGRATION + "test_rights_matrix.py"
SNAPSHOT_LIVE: Final = INTEGRATION + "test_snapshot_live.py"

STAGING: Final = "replication_pipeline/postgres/staging.py"
APPLY_SQL: Final = "sql/queries/apply.sql"
FEW_SQL: Final = "sql/queries/apply_few.sql"
SNAPSHOT_SQL: Final = "sql/queries/snapshot.sql"
SNAPSHOT_SOURCE: Final = "replication_pipeline/postgres/snapshot.py"
CLOCK_SQL: Final = "sql/schema/30_clock.sql"
STATEMENTS_SQL: Final = "sql/schema/41_capture_statements.sql"
FUNCTIONS_SQL: Final = "sql/schema/42_capture_functions.sql"


@dataclass(frozen=True, slots=True)
class Mutant:
    """``old`` → ``new`` in ``file``, wherever it stands: ``times`` times."""

    name: str
    file: str
    old: str
    new: str
    caught_by: tuple[str, ...]
    times: int = 1

    def change(self, text: str) -> str:
        """The file with the bug. Raises ``ValueError`` when the text has moved on."""
        if text.count(self.old) != self.times:
            raise ValueError(
                f"mutant {self.name!r}: its text stands {text.count(self.old)} times in {self.file}, "
                f"not {self.times}"
            )
        return text.replace(self.old, self.new)


MUTANTS: Final = (
    # --- versions
    Mutant(
        "versions from the transaction's beginning", CLOCK_SQL,
        "source text default 'clock_timestamp'", "source text default 'transaction_timestamp'",
        (DECISIONS,),
    ),
    Mutant(
        "no contour in the version", CLOCK_SQL,
        "contour_id constant integer := (select id from replication.contour);",
        "contour_id constant integer := 0;",
        (CAPTURE + "::test_versions_ascend_carry_the_contour_and_are_those_of_the_rows", DECISIONS),
    ),
    Mutant(
        "an update looks at the clock alone", CLOCK_SQL,
        """(greatest(%s, (old.replication_version operator(pg_catalog.>>) 10)
          operator(pg_catalog.+) 1)""",
        "(%s", (DECISIONS, MACHINE), times=2,
    ),
    Mutant(
        "a delete looks at the clock alone", CLOCK_SQL,
        "(greatest(%s, (predecessor operator(pg_catalog.>>) 10) operator(pg_catalog.+) 1)",
        "(%s", (DECISIONS, MACHINE),
    ),
    Mutant(
        "version + 1, in the contour's bits", CLOCK_SQL,
        """(greatest(%s, (old.replication_version operator(pg_catalog.>>) 10)
          operator(pg_catalog.+) 1) operator(pg_catalog.<<) 10) operator(pg_catalog.|)"""
        """ %s::pg_catalog.int8""",
        """greatest((%s operator(pg_catalog.<<) 10) operator(pg_catalog.|) %s::pg_catalog.int8,
          old.replication_version operator(pg_catalog.+) 1)""",
        (DECISIONS, MACHINE), times=2,
    ),
    Mutant(
        "inserts are not lifted above their tombstones", STATEMENTS_SQL,
        "and (c.__forged or c.__version >> 10 < c.__lifted_clock)", "and c.__forged",
        (DECISIONS, MACHINE),
    ),
    # --- capture
    Mutant(
        "a key move is one event", STATEMENTS_SQL,
        "'  from (%1$s) __n full join (%2$s) __o on %3$s',",
        "'  from (%1$s) __n left join (%2$s) __o on %3$s',",
        (MACHINE, CAPTURE),
    ),
    Mutant(  # triggers of a cascade fire at the statement's own depth; but it does not name the table
        "cascades are not captured", FUNCTIONS_SQL,
        "  if pg_trigger_depth() > 1 then\n",
        """  if position(tg_table_name in current_query()) = 0 then
    return null;
  end if;
  if pg_trigger_depth() > 1 then
""",
        (CAPTURE + "::test_cascades_are_captured_as_changes_of_the_children",),
    ),
    Mutant(
        "writes of triggers are not captured", FUNCTIONS_SQL,
        "  if pg_trigger_depth() > 1 then\n", "  if pg_trigger_depth() > 1 then\n    return null;\n",
        (CAPTURE + "::test_a_row_that_a_trigger_brings_back_is_not_deleted_elsewhere",),
    ),
    Mutant(
        "images by to_jsonb", STATEMENTS_SQL,
        "case when in_line then 'row_to_json(__image.*)'",
        "case when in_line then 'to_jsonb(__image.*)::json'",
        (INTEGRATION + "test_types.py",),
    ),
    Mutant(
        "event ids from the queue's numbers alone", FUNCTIONS_SQL,
        "seed := to_hex(replication.clock() >> 4) ||", "seed := lpad('', 12, '0') ||",
        (DECISIONS,), times=3,
    ),
    Mutant(
        "capture leaves triggers off behind itself", FUNCTIONS_SQL,
        "  perform set_config('session_replication_role', replication_role, true);\n", "",
        (MACHINE, CAPTURE),
    ),
    # --- publishing
    Mutant(
        "a high-water mark decides what is claimed",
        "replication_pipeline/postgres/low_water.py",
        "if row is not None and row[0] > self._pending[1]:", "if row is not None:",
        (INTEGRATION + "test_low_water.py::test_an_id_that_commits_late_is_claimed",),
    ),
    Mutant(
        "marked before Kafka has acknowledged", "replication_pipeline/engine/publish.py",
        "deliveries = flight.wait(self.cycle.stop)", "deliveries = Deliveries()",
        (INTEGRATION + "test_publisher_kafka_faults.py::test_kafka_is_down_when_the_publisher_starts",),
    ),
    Mutant(
        "a refused event counts as delivered", "replication_pipeline/engine/publish.py",
        "    if not deliveries.refused and not held:\n", "    if True:\n",
        (PUBLISH + "::test_an_event_too_large_for_kafka_is_parked_and_fences_only_its_key",),
    ),
    Mutant(
        "rows are claimed without their shards", "sql/queries/outbox.sql",
        " limit %(share)s for update skip locked", " limit %(share)s",
        (PUBLISH + "::test_shards_are_shared_and_locked", INTEGRATION + "test_publishers_together.py"),
    ),
    Mutant(
        "a turn goes on with what was committed since", "replication_pipeline/postgres/outbox.py",
        "self._seen if self._raised else None", "None",
        (PUBLISH + "::test_an_event_that_is_committed_late_is_not_overtaken_within_a_turn",),
    ),
    Mutant(
        "nothing overtakes what a broken turn had sent", "replication_pipeline/engine/publish.py",
        "if late := self.outbox.to_overtake():", "if late := self.outbox.to_overtake() and ():",
        (INTEGRATION + "test_publisher_postgres_faults.py",),
    ),
    # --- applying
    Mutant(
        "decided without tombstones", APPLY_SQL,
        "greatest(f.current_version, f.buried_version,", "greatest(f.current_version,",
        (DECISIONS, MACHINE),
    ),
    Mutant(
        "the last of a batch instead of the newest", APPLY_SQL,
        "over (same_key order by s.version desc, s.seq desc) as rank",
        "over (same_key order by s.seq desc) as rank", (MACHINE,),
    ),
    Mutant(
        "equal versions are applied again", APPLY_SQL,
        "when s.version <= greatest(", "when s.version < greatest(", (DECISIONS,),
    ),
    Mutant(
        "checked, then written, without locks", APPLY_SQL,
        " where coalesce(t.replication_version, 0) < excluded.replication_version", "",
        (RACES,),
    ),
    Mutant(
        "rows are not locked before the decision", APPLY_SQL,
        """ join {stage} s on {same_key} where s.verdict = 'apply'
   order by {target_keys} for update of t) locked""",
        """ join {stage} s on {same_key} where s.verdict = 'apply'
   order by {target_keys}) locked""",
        (RACES,),
    ),
    Mutant(
        "applied changes fire triggers", APPLY_SQL,
        "select set_config('session_replication_role', 'replica', %(of_the_transaction)s)",
        "select set_config('session_replication_role', 'origin', %(of_the_transaction)s)", (MACHINE,),
    ),
    Mutant(
        "own events are applied", STAGING,
        "if source.contour == me:", "if source.contour == me and not event.op:",
        (APPLY + "::test_own_events_come_home_unapplied",),
    ),
    Mutant(
        "offsets are set without comparing", APPLY_SQL,
        """   where o.next_offset = (select w.expected from wanted w
                           where w.topic = o.topic and w.partition = o.partition)
""",
        "", (APPLY + "::test_a_consumer_that_lost_its_partition_writes_nothing",),
    ),
    Mutant(
        "offsets move in a transaction of their own", "replication_pipeline/postgres/inbox.py",
        """            self._advance(connection, batch.advances)
            failpoint("offsets_advanced")
""",
        """            self._advance(connection, batch.advances)
            connection.commit()
            self._begin(connection)
            failpoint("offsets_advanced")
""",
        (MACHINE,),
    ),
    Mutant(
        "no sweep of rows deleted meanwhile", APPLY_SQL,
        "and coalesce(t.replication_version, 0) <= (", "and 0 > (", (RACES,),
    ),
    Mutant(
        "deletes do not settle", APPLY_SQL,
        "nullif(s.record_key, k.record_key), s.version, s.current_version is null",
        "nullif(s.record_key, k.record_key), s.version, false",
        (APPLY + "::test_an_insert_under_way_does_not_survive_a_newer_delete",),
    ),
    Mutant(
        "deletes leave no tombstone", APPLY_SQL,
        " where s.verdict = 'apply' and s.op = 'd' order by k.record_key",
        " where false and s.op = 'd' order by k.record_key", (MACHINE,),
    ),
    Mutant(
        "children are applied without their parent", APPLY_SQL,
        " where s.verdict = 'apply' and s.op <> 'd' and {child_columns_set}",
        " where false and s.op <> 'd' and {child_columns_set}", (MACHINE,),
    ),
    Mutant(
        "parents are deleted under their children", APPLY_SQL,
        " where s.verdict = 'apply' and s.op = 'd' and {same_key}\n   and exists (select from {child}",
        " where false and s.op = 'd' and {same_key}\n   and exists (select from {child}", (MACHINE,),
    ),
    Mutant(
        "a pooler's session is taken for the applier's own",
        "replication_pipeline/postgres/connection.py",
        "return row is None or row[0] != connection.info.backend_pid", "return row is None",
        (APPLY + "::test_triggers_are_off_for_the_transaction_only_behind_a_pooler",),
    ),
    Mutant(
        "a few events leave no conflicts", FEW_SQL,
        "if conflicts[{place}] > 0 then", "if false then", (FEW_EVENTS,),
    ),
    Mutant(
        "a few events do not look whom they would orphan", FEW_SQL,
        """  if {deletes} then
    {statements}
""",
        """  if false then
    {statements}
""",
        (FEW_EVENTS,),
    ),
    Mutant(
        "a few events do not lock their parents", "replication_pipeline/postgres/few_events.py",
        "lines += [*checks, *locks, *(checks if locks else ())]", "lines += checks",
        (RACES + "::test_a_child_waits_for_a_parent_that_is_being_deleted",),
    ),
    Mutant(
        "what is unusual among a few events is committed", FEW_SQL,
        """  if n_parked > 0 then
    return;
""",
        """  if false then
    return;
""",
        (HEARTBEATS + "::test_an_old_event_of_a_forgotten_delete_is_parked_not_applied",),
    ),
    # --- restores, and forgetting
    Mutant(
        "replay leaves out own events", "replication_pipeline/postgres/apply_steps.py",
        'me = "" if again else self.', "me = self.",
        (INTEGRATION + "test_replay.py::test_a_restored_contour_is_as_it_was",),
    ),
    Mutant(
        "tombstones are collected by age", "replication_pipeline/postgres/tombstones.py",
        "before = min(old, known.before or 0)", "before = old",
        (HEARTBEATS + "::test_a_tombstone_stays_until_every_contour_knows_its_delete",),
    ),
    Mutant(
        "forgotten deletes leave no floor", "sql/queries/maintenance.sql",
        "select %(table)s, max(version) from gone having count(*) > 0",
        "select %(table)s, max(version) from gone having false",
        (HEARTBEATS + "::test_an_old_event_of_a_forgotten_delete_is_parked_not_applied",),
    ),
    # --- snapshots
    Mutant(
        "a snapshot does not lock what it reads", SNAPSHOT_SQL,
        "   where {range} and {filter} order by {keys} for share of {alias} skip locked",
        "   where {range} and {filter} order by {keys}",
        (SNAPSHOT_LIVE + "::test_who_reads_the_topic_as_upserts_has_the_table",),
    ),
    Mutant(
        "a snapshot forgets the rows that it has skipped", SNAPSHOT_SQL,
        "and not exists (select from __locked __l where {same_key})", "and false",
        (SNAPSHOT + "::test_rows_in_the_hands_of_a_long_transaction_are_waited_for",),
    ),
    Mutant(
        "a snapshot's deletes wait for no writers", SNAPSHOT_SOURCE,
        "if not self._writers_have_ended(connection):", "if False:",
        (SNAPSHOT + "::test_a_delete_is_never_queued_behind_an_insert_under_way",),
    ),
    Mutant(
        "a snapshot takes no delete back", SNAPSHOT_SQL,
        "   and (not exists (select from replication.replication_tombstones b",
        "   and false and (not exists (select from replication.replication_tombstones b",
        (SNAPSHOT + "::test_a_delete_is_never_queued_behind_an_insert_under_way",),
    ),
    Mutant(
        "a row of version 0 is never news", APPLY_SQL,
        "case when s.op = 'r' then -1 else 0 end", "0",
        (SNAPSHOT + "::test_rows_from_before_set_up_go_where_there_is_nothing",),
    ),
    Mutant(
        "whom a snapshot is for does not matter", STAGING,
        "if source.to is not None and here not in", "if False and here not in",
        (SNAPSHOT + "::test_a_filter_and_one_contour_of_three",),
    ),
    Mutant(
        "a delete that a snapshot has sent is a conflict", STAGING,
        "base = NEWEST", "base = base",
        (SNAPSHOT + "::test_deletes_are_sent_and_rows_do_not_come_back",),
    ),
    Mutant(
        "a large batch takes known events for new ones", APPLY_SQL,
        "insert into replication.processed_events (event_id) select event_id from {stage}\n\n",
        "insert into replication.processed_events (event_id) select event_id from {stage}\n"
        "on conflict do nothing\n\n",
        (INTEGRATION + "test_large_batches.py::test_events_that_are_known_are_told_apart",),
    ),
    Mutant(
        "a large batch does not wait for its turn", "replication_pipeline/postgres/inbox.py",
        "            wait()\n            self._advance(", "            self._advance(",
        (INTEGRATION + "test_applier_lanes.py::test_the_next_batch_is_read_while_one_is_applied",),
    ),
    # --- who is believed
    Mutant(
        "whose number a version has does not matter", "replication_pipeline/domain/origins.py",
        "if number in (None, known):", "if True:",
        (HOSTILE + "::test_every_known_attack_is_parked_and_the_event_behind_it_applied",),
    ),
    Mutant(
        "what is to be parked hides others of its key", APPLY_SQL,
        "s.reason is not null", "false",
        (HOSTILE + "::test_a_forged_event_hides_no_real_one",), times=2,
    ),
    Mutant(
        "any signature will do", "replication_pipeline/domain/signatures.py",
        "if hmac.compare_digest(told, mac(", "if bool(told) or bool(mac(",
        (INTEGRATION + "test_signatures.py::test_what_was_signed_is_applied_and_nothing_else",),
    ),
    Mutant(
        "a role may more than it needs", "sql/schema/90_grants.sql",
        "grant select on all tables", "grant select, insert on all tables",
        (RIGHTS + "::test_every_right_is_in_the_table_and_every_line_of_it_holds",),
    ),
    Mutant(
        "there is always room for one more", "replication_pipeline/postgres/parking_space.py",
        "if min(self._events, self._bytes) >= 0:", "if True:",
        (INTEGRATION + "test_parking_space.py::test_who_wants_to_catch_up_is_told_that_it_can_not",),
    ),
    Mutant(
        "a snapshot's row of a merging table has no state", STATEMENTS_SQL,
        "case when __operation <> 'SNAPSHOT' then (", "case when true then (",
        (SNAPSHOT + "::test_a_table_that_merges_arrives_with_its_columns_versions",),
    ),
    Mutant(
        "a table set up anew is gone on with", "replication_pipeline/postgres/snapshot_runs.py",
        "restart or table_id != table.table_id", "restart",
        (SNAPSHOT + "::test_a_table_set_up_anew_is_loaded_from_the_beginning",),
    ),
)  # fmt: skip
