-- Renewal: a row is written again as it is, as a new change of this contour. Apply decides by it that a
-- row stays which another contour has deleted: the event brings it back everywhere.

-- Raises the versions of rows above `above`, and queues an UPDATE of each. A row is named by where it
-- lies (`leaves`: the partition, or the table itself; `places`: its ctid), so the caller must have locked
-- it in the same transaction. What a renewed row replaces is the version it has to be above of.
-- Returns how many rows were renewed.
create or replace function replication.renew_rows(
  of_table integer, leaves oid[], places tid[], above bigint[])
returns bigint language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  t constant replication.replicated_tables := replication.current_table(of_table);
  c constant replication.contour := (select c from replication.contour c);
  seed constant text := to_hex(replication.clock() >> 4) || replication.event_origin(c);
  replication_role constant text := current_setting('session_replication_role');
  former text[];
  renewed bigint;
begin
  -- No trigger may alter the rows or capture them a second time; values are written as capture does.
  perform set_config('session_replication_role', 'replica', true);
  former := replication.pin_text_settings(t);
  if t.merge = 'columns' then  -- no column gets another version, so what they have must be told
    execute format($sql$
insert into replication.merge_states as m (table_name, record_key, long_key, versions, totals, version)
select %1$L, replication.tombstone_key(o.key), nullif(o.key, replication.tombstone_key(o.key)),
       o.state -> 'versions', o.state -> 'totals', o.version
  from (select %2$s as key, t.replication_version as version,
               replication.merge_fresh((%3$s)::jsonb, t.replication_version, %4$L, %5$L) as state
          from %6$s t join unnest($1, $2) as w(leaf, place) on t.tableoid = w.leaf and t.ctid = w.place) o
on conflict (table_name, record_key) do update
   set versions = case when m.image is null then m.versions else excluded.versions end,
       totals = case when m.image is null then m.totals else excluded.totals end,
       deleted = case when m.image is null then m.deleted else greatest(m.deleted, m.version) end,
       image = null, bases = null$sql$,
      t.table_name, replication.key_expression(t, 't'), replication.image_expression(t, 't', null),
      t.key_columns, t.delta_columns, t.relation) using leaves, places;
  end if;
  execute format($sql$
with __renewed as (
  update %1$s t
     set replication_version = replication.next_version(greatest(w.above, t.replication_version))
    from unnest($3, $4, $5) as w(leaf, place, above)
   where t.tableoid = w.leaf and t.ctid = w.place
  returning %2$s as __key, %3$s as __payload, null::json as __before,
            t.replication_version as __version, w.above as __base, 'UPDATE' as __operation
)$sql$, t.relation, replication.key_expression(t, 't'), replication.image_expression(t, 't', null))
    || replication.queue_insert(
         t, '(select nextval(''replication.replication_queue_id_seq'') as __id, r.* from __renewed r) __e',
         false, false, '$1', '$2')
    using seed, pg_current_xact_id()::text::bigint, leaves, places, above;
  get diagnostics renewed = row_count;
  perform replication.restore_settings(former);
  perform set_config('session_replication_role', replication_role, true);
  return renewed;
end $$;
