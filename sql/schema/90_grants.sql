-- Ownership and rights. Nothing is granted to PUBLIC: who writes a replicated table needs no right
-- here, because the capture functions run as replication_owner. What the pipeline's roles had before is taken
-- from them first, in this same transaction, so that an upgrade leaves no right behind that is listed no more.
-- What is listed is what replication_pipeline_tests/integration/rights.txt says; docs/security.md says why.

revoke all on schema replication
  from public, replication_publisher, replication_consumer, replication_monitor;
alter schema replication owner to current_user;
grant usage, create on schema replication to replication_owner;  -- create: whoever is to own something needs it

do $$
declare
  object record;
begin
  for object in
    select case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end as kind, c.oid::regclass as name
      from pg_class c
     where (c.relnamespace = 'replication'::regnamespace and c.relkind in ('r', 'p', 'v')
            or c.oid = 'replication.replication_queue_id_seq'::regclass)
       and c.relowner <> 'replication_owner'::regrole  -- it would wait for every writer of the queue
  loop
    execute format('alter %s %s owner to replication_owner', object.kind, object.name);
  end loop;
  -- Functions stay with the role that installs: an event trigger calls some of them as a superuser, so
  -- replication_owner, as which code of table owners may come to run, must not be able to change them.
  for object in
    select p.oid::regprocedure as name, p.prosecdef and p.prorettype <> 'event_trigger'::regtype as runs_as_owner
      from pg_proc p where p.pronamespace = 'replication'::regnamespace
  loop
    execute format('alter routine %s owner to %s', object.name,
                   case when object.runs_as_owner then 'replication_owner' else 'current_user' end);
    execute format('revoke all on function %s from public, replication_publisher, replication_consumer, '
                   'replication_monitor', object.name);
    execute format('grant execute on function %s to replication_owner', object.name);
  end loop;
end $$;

revoke all on all tables in schema replication
  from public, replication_publisher, replication_consumer, replication_monitor;
revoke all on all sequences in schema replication
  from public, replication_publisher, replication_consumer, replication_monitor;
grant usage on schema replication
  to replication_publisher, replication_consumer, replication_monitor;

grant select on all tables in schema replication
  to replication_publisher, replication_consumer, replication_monitor;
-- Publishing: rows are marked, never made; cleanup removes published ones.
grant update, delete on replication.replication_queue to replication_publisher;
grant update on replication.publish_shards to replication_publisher;
grant select on sequence replication.replication_queue_id_seq to replication_publisher;
grant insert, update, delete on replication.workers, replication.worker_counts
  to replication_publisher, replication_consumer;
grant delete on replication.processed_events, replication.replication_conflicts
  to replication_publisher;
grant execute on function replication.event_value(
  text, text, json, json, text, bigint, timestamptz, uuid, bigint, bigint, integer, jsonb, text, bigint)
  to replication_publisher;
grant insert on replication.discarded_events to replication_publisher, replication_consumer;
grant execute on function replication.rotate_queue(interval), replication.refresh_captures(),
  replication.remove_published(interval, integer) to replication_publisher;
-- Heartbeats: publishers send them, appliers follow them, cleanup forgets deletes by them.
grant update on replication.heartbeat to replication_publisher, replication_consumer;
grant execute on function replication.clock(), replication.tombstone_key(text) to replication_publisher;
grant update, delete on replication.replication_tombstones to replication_publisher;
grant insert, update on replication.tombstone_floors to replication_publisher;
-- Applying.
grant update on replication.heartbeat_log to replication_consumer;
grant insert, update, delete on replication.contours, replication.contour_rounds to replication_consumer;
grant delete on replication.tombstone_floors to replication_consumer;
grant insert, update, delete on replication.processed_events, replication.consumer_offsets,
  replication.consumer_topics, replication.parked_events, replication.replication_tombstones, replication.replication_conflicts
  to replication_consumer;
grant insert, update on replication.displaced_keys to replication_consumer;
-- Its reading of the catalog (sql/queries/catalog.sql).
grant execute on function replication.table_fingerprint(regclass), replication.base_type(oid),
  replication.tombstone_key(text), replication.renew_rows(integer, oid[], tid[], bigint[]),
  replication.uncommon_time(timestamptz), replication.uncommon_time(timestamp) to replication_consumer;
-- Merging columns.
grant insert, update, delete on replication.merge_states to replication_consumer;
grant delete on replication.merge_states to replication_publisher;
grant execute on function replication.merge_fresh(jsonb, bigint, text[], text[]), replication.merge_sum(jsonb),
  replication.merge_two(jsonb, jsonb), replication.merged(jsonb),
  replication.merge_known(jsonb, bigint, replication.merge_states, bigint, text[], text[]),
  replication.merge_event(text, bigint, jsonb, jsonb, text[], text[]) to replication_consumer;
grant execute on function replication.whole_row(integer) to replication_consumer, replication_publisher;
-- Snapshots: whoever runs one has both roles, publisher for the queue and consumer for the table's rows.
grant insert, update, delete on replication.snapshots, replication.snapshot_parts, replication.snapshot_skipped
  to replication_publisher;
grant execute on function replication.snapshot_rows(integer, oid, tid[], text),
  replication.snapshot_deletes(integer, text[], text), replication.parts_of(regclass) to replication_publisher;
-- Repairing tables.
grant execute on function replication.resend_rows(integer, oid[], tid[], bigint[]),
  replication.resend_deletes(integer, text[], bigint[]) to replication_consumer;
-- Comparing tables: the key of a row as it is on Kafka. Doctor: whether capture follows a table's columns.
grant execute on function replication.whole_row(integer), replication.tombstone_key(text), replication.base_type(oid),
  replication.table_fingerprint(regclass),
  replication.uncommon_time(timestamptz), replication.uncommon_time(timestamp) to replication_monitor;

-- Metrics. Workers and comparisons add to what the exporter reads; the exporter, as a member of replication_monitor
-- alone, writes nothing.
grant insert, delete, update on replication.histograms to replication_publisher, replication_consumer;
grant insert, update on replication.comparisons to replication_publisher, replication_consumer;

-- `replication_queue` and the functions are found without their schema in every new session.
do $$
declare
  present text := (
    select split_part(setting, '=', 2)
      from pg_db_role_setting s, unnest(s.setconfig) setting
     where s.setdatabase = (select oid from pg_database where datname = current_database())
       and s.setrole = 0 and setting like 'search_path=%');
begin
  if present is null then
    execute format('alter database %I set search_path = "$user", public, replication',
                   current_database());
  elsif present !~ '(^|[ ,"])replication($|[ ,"])' then
    execute format('alter database %I set search_path = %s, replication', current_database(), present);
  end if;
end $$;
