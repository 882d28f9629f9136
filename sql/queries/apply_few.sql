-- A batch of a few events in one round trip: the statements of apply.sql, unchanged and in their order, as the body
-- of a function that lives as long as the session (postgres/few_events.py). Between two round trips lies more time
-- than any of them takes for an event or two.
--
-- Only what is usual is done here. Whenever an event would have to wait, give way or be decided again the function
-- returns with `usual` false; the caller rolls back, and takes the batch step by step.
--
-- Parameters, by number, as user's columns may be called anything: $1 to $5 as advance_offsets has them, $6 instance,
-- $7 number of messages, $8 their bytes, $9 contours that the events come from and $10 the numbers in their versions,
-- null where that may be anybody's; from $11 on, for each table, its rows as texts of the stage's row type, and whether
-- there are writes, and deletes, among them.

-- name: function
create or replace function pg_temp.{name}({parameters},
  out advanced boolean, out usual boolean, out fresh bigint[], out applied bigint[], out skipped bigint[],
  out conflicts bigint[]) language plpgsql as {body}

-- name: begin
#variable_conflict use_column
declare
  n bigint; n_staged bigint; n_rivals bigint; n_applied bigint; n_skipped bigint; n_parked bigint;
  n_conflicts bigint;
begin
  usual := false;
  set constraints all deferred;
  -- What a crash of the server takes back it takes back with its offsets, and Kafka brings it again. Nothing is captured
  -- here that a publisher could have sent by then.
  set local synchronous_commit = off;
  {advance_offsets}
  into advanced;
  if not advanced or exists (
    select from replication.contours c join unnest($9, $10) as o(name, id)
      on c.state <> 'active' and c.name = o.name
         or {open} and c.state <> 'forgotten' and (c.name = o.name) <> (c.id = o.id)) then
    return;
  end if;

-- name: stage_table
  insert into {stage} select (e.row_).* from (select r::{stage} as row_ from unnest({rows}) r offset 0) e;
  {remember}
  into n_staged;
  fresh := fresh || n_staged;
  {lock_rows}
  into n;
  {decide};
  get diagnostics n_rivals = row_count;
  conflicts := conflicts || n_rivals;

-- name: expect_none
  {statement};
  get diagnostics n = row_count;
  if n > 0 then
    return;
  end if;

-- name: lock
  {statement}
  into n;

-- name: write_table
  if conflicts[{place}] > 0 then
    {record_conflicts}
    into n;
    conflicts[{place}] := n;
  end if;
  if {writes} then
    {make_way}
    {upsert};
    {sweep_resurrected};
    get diagnostics n = row_count;
    if n > 0 then
      return;
    end if;
  end if;

-- name: expect_no_children
  if {deletes} then
    {statements}
  end if;

-- name: delete_table
  if {deletes} then
    {bury};
    {delete_rows};
  end if;

-- name: finish_table
  {count_verdicts}
  into n_applied, n_skipped, n_parked;
  if n_parked > 0 then
    return;
  end if;
  applied := applied || n_applied;
  skipped := skipped || n_skipped;
  {clear_stage};

-- name: end
  n_applied := (select coalesce(sum(u.n), 0) from unnest(applied) u(n));
  n_skipped := (select coalesce(sum(u.n), 0) from unnest(skipped) u(n));
  n_conflicts := (select coalesce(sum(u.n), 0) from unnest(conflicts) u(n));
  {count_applied};
  usual := true;
end
