-- Snapshots: rows that are there already go to other contours, as events with the rows' own versions. A run is
-- an operator's (replication_pipeline/engine/snapshot.py); here is what it has to remember, and the two functions
-- that put events into the queue.
--
-- Invariants
--   * What was queued and how far that has come are committed together, so a run that was killed goes on there.
--   * No event of a snapshot stands behind a newer change of its key that this contour made. Of a row: it is
--     locked, so that nobody can change it, before its event gets an id. Of a delete: see snapshot_deletes().

-- A run. `send_to`: a contour, or null for all others. `estimate`: how many rows there are, about. `queued` and
-- `deletes` are sums: of what was done apart from the parts, and, once it is finished, of all.
--   running    neither finished_at nor given_up_at
--   finished   finished_at is set; its parts are gone
--   given up   given_up_at is set: it was begun anew, or the table was set up anew
create table if not exists replication.snapshots (
  id          bigint generated always as identity primary key,
  table_id    integer not null,
  table_name  text not null,
  key_columns text[] not null,
  send_to     text,
  filter      text,
  estimate    bigint not null default 0,
  started_at  timestamptz not null default clock_timestamp(),
  started_by  text not null default session_user,
  finished_at timestamptz,
  given_up_at timestamptz,
  queued      bigint not null default 0,
  deletes     bigint not null default 0,
  check (finished_at is null or given_up_at is null)
);
-- No table has two that are running.
create unique index if not exists snapshots_running on replication.snapshots (table_name)
 where finished_at is null and given_up_at is null;

-- The ranges of keys that a run is divided into. Part 0 is the table's tombstones, by record_key. Keys are texts of
-- the key columns; a null end is open. Whoever locks a part goes on with it, behind `reached`.
create table if not exists replication.snapshot_parts (
  snapshot_id bigint not null references replication.snapshots on delete cascade,
  part        integer not null,
  reached     text[],  -- keys up to here are done; at first, what the part begins behind
  ends        text[],  -- the last key of the part
  queued      bigint not null default 0,
  done        boolean not null default false,
  primary key (snapshot_id, part)
) with (fillfactor = 50);

-- Rows that somebody was writing when their turn came. They are visited again until they are free or gone.
create table if not exists replication.snapshot_skipped (
  snapshot_id bigint not null references replication.snapshots on delete cascade,
  record_key  text[] not null,
  visited_at  timestamptz not null default clock_timestamp()
);
create index if not exists snapshot_skipped_next on replication.snapshot_skipped (snapshot_id, visited_at);

-- Queues rows as they are, each with its own version. A row is named by where it lies (`leaf`: the partition, or
-- the table itself; `places`: its ctid), so the caller must have locked it in the same transaction. Values are
-- written as capture does, whatever the session's settings. Returns how many rows were queued.
create or replace function replication.snapshot_rows(
  of_table integer, leaf oid, places tid[], send_to text)
returns bigint language plpgsql security definer set search_path = pg_catalog, pg_temp
set "DateStyle" = 'ISO, YMD' set "TimeZone" = 'UTC' set extra_float_digits = 1 set "IntervalStyle" = 'postgres'
set bytea_output = 'hex' set lc_monetary = 'C' set array_nulls = on set quote_all_identifiers = off as $$
declare
  t constant replication.replicated_tables := replication.current_table(of_table);
  c constant replication.contour := (select c from replication.contour c);
  seed constant text := to_hex(replication.clock() >> 4) || replication.event_origin(c);
  largest bigint;
  queued bigint;
begin
  perform replication.check_snapshot(t, leaf, send_to);
  -- Images are tried whole first, then without the largest rows, which are parked.
  foreach largest in array array[null, 16777216, 262144] loop
    begin
      execute replication.queue_insert(t, format(
        '(select nextval(''replication.replication_queue_id_seq'') as __id, %s as __key, %s as __payload, '
        'null::json as __before, coalesce(n.replication_version, 0) as __version, null::bigint as __base, '
        '''SNAPSHOT'' as __operation from only %s n%s where n.ctid = any($3)) __e',
        replication.key_expression(t, 'n'),
        case when largest is null then 'row_to_json(__image.*)'
             else replication.image_expression(t, 'n', largest) end, leaf::regclass,
        case when largest is null
             then format(' cross join lateral (select %s) __image', replication.projection(t, 'n')) end),
        false, largest is not null, '$1', '$2', '$4')
        using seed, pg_current_xact_id()::text::bigint, places, coalesce(send_to, '*');
      get diagnostics queued = row_count;
      return queued;
    exception when program_limit_exceeded or internal_error or out_of_memory then
      if largest = 262144 then
        raise;
      end if;
    end;
  end loop;
end $$;

-- Queues deletes, each with its tombstone's version. `keys` are those of tombstones.
--
-- No lock keeps somebody from inserting a row under such a key; one who has an id already, but has not committed,
-- would come before the older delete. So the caller waits, in the same transaction, until whoever was writing to
-- the table when the ids were drawn has ended; then locks the shards, so that nothing more is published; and takes
-- those events back whose key has a row by then, or a newer delete. Whoever comes later has a greater id.
create or replace function replication.snapshot_deletes(
  of_table integer, keys text[], send_to text)
returns table (id bigint, shard smallint, tombstone text, version bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  t constant replication.replicated_tables := replication.current_table(of_table);
  c constant replication.contour := (select c from replication.contour c);
  seed constant text := to_hex(replication.clock() >> 4) || replication.event_origin(c);
begin
  perform replication.check_snapshot(t, t.relation, send_to);
  return query execute replication.queue_insert(t, format(
    '(select nextval(''replication.replication_queue_id_seq'') as __id, coalesce(s.long_key, s.record_key) as __key, '
    'null::json as __payload, null::json as __before, s.version as __version, null::bigint as __base, '
    '''DELETE'' as __operation from replication.replication_tombstones s '
    'where s.table_name = %L and s.record_key = any($3)) __e', t.table_name),
    false, false, '$1', '$2', '$4')
    || ' returning id, shard, replication.tombstone_key(record_key), version'
    using seed, pg_current_xact_id()::text::bigint, keys, coalesce(send_to, '*');
end $$;

-- What these two may be asked for: they read with the rights of replication_owner, and `send_to` is part of JSON.
create or replace function replication.check_snapshot(
  t replication.replicated_tables, leaf oid, send_to text)
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if t.table_id is null or leaf is distinct from t.relation::oid
                           and pg_partition_root(leaf::regclass) is distinct from t.relation then
    raise exception using errcode = 'object_not_in_prerequisite_state',
      message = 'the table is not replicated any more';
  end if;
  if send_to !~ '^[a-z][a-z0-9_]{0,30}$' then
    raise exception using errcode = 'invalid_parameter_value', message = 'no name of a contour';
  end if;
end $$;
