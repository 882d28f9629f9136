-- Capture: one AFTER STATEMENT trigger per operation writes a whole statement's changes at once.
--
-- Invariants
--   * In the user's transaction: an event exists exactly when its change is committed.
--   * Values travel as text that PostgreSQL made under pinned settings; forms as in docs/events.md.
--   * A key never lives at or below its tombstone: an inserted row whose version is not above the
--     tombstone of its key (a skewed clock, or a delete that committed while the insert waited for
--     it) is lifted above it, row and event alike, in one statement. So is one that comes after a row of its
--     key that was displaced, and a row whose version the application gave.
--   * A column that was added, dropped, renamed or retyped is seen by the next statement.
--   * Nothing here can fail because of a value; but an UPDATE of a row of more than 1 GB, which PostgreSQL
--     can not compare, does.
--   * Within a statement, the delete of a key comes before the insert of another.
--
-- The statements are generated for each table by 41_capture_statements.sql and compiled into one function
-- per table, replication.capture_<table_id>(). When the table's columns have changed since, the same
-- generator makes the statement on the fly until refresh_capture() compiles it again.
--
-- Cost decides the form (docs/capture-cost.md): no CTE on the common ways, because one with nextval()
-- is materialized; event ids without random numbers; the active partition of the queue by name, because
-- routing rows to it costs a tenth of all.

-- The shape of a table as a short text; changes with every change of a column.
--
-- Declared IMMUTABLE on purpose, although it reads the catalog: PostgreSQL then computes it while
-- planning and keeps it in the cached plan, and throws that plan away when the table is altered.
-- The check on every statement therefore costs nothing. It holds only in a query that also reads
-- the table or one of its transition tables, which is what ties the plan to the table.
create or replace function replication.table_fingerprint(relation regclass)
returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  select md5(concat(c.oid, ':', n.nspname, ':', c.relname, ':', k.conkey, ':', string_agg(
           concat_ws(':', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated), ','
           order by a.attnum)))
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid
    left join pg_constraint k on k.conrelid = c.oid and k.contype = 'p'
   where c.oid = relation and a.attnum > 0 and not a.attisdropped
   group by c.oid, n.nspname, c.relname, k.conkey
$$;

-- Column names after renames: a listed column that is gone by its name is looked for by its number.
create or replace function replication.current_names(relation regclass, names text[], attnums smallint[])
returns text[] language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when names is not null then coalesce(array_agg(coalesce(
           (select a.attname from pg_attribute a
             where a.attrelid = relation and a.attname = l.name and a.attnum > 0 and not a.attisdropped),
           (select a.attname from pg_attribute a
             where a.attrelid = relation and a.attnum = l.attnum and not a.attisdropped),
           l.name) order by l.position), '{}') end
    from unnest(names, attnums) with ordinality as l(name, attnum, position)
$$;

-- A table with its primary key as it is now.
create or replace function replication.with_current_key(t replication.replicated_tables)
returns replication.replicated_tables language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  t.key_columns := coalesce(
    (select array_agg(a.attname::text order by k.position)
       from pg_constraint c
      cross join unnest(c.conkey) with ordinality k(attnum, position)
       join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.attnum
      where c.conrelid = t.relation and c.contype = 'p'),
    t.key_columns);
  return t;
end $$;

-- A table as it is registered, but with its key and the columns of its lists as they are called now.
create or replace function replication.current_table(of_table integer)
returns replication.replicated_tables language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  t replication.replicated_tables;
begin
  select * into t from replication.replicated_tables r where r.table_id = of_table;
  t.include := replication.current_names(t.relation, t.include, t.listed_attnums);
  t.exclude := replication.current_names(t.relation, t.exclude, t.listed_attnums);
  if t.merge = 'columns' then  -- which has none of the two lists above
    t.delta_columns := replication.current_names(t.relation, t.delta_columns, t.listed_attnums);
  end if;
  return replication.with_current_key(t);
end $$;

-- The settings that decide about the text of the table's values: pinned while capture runs. Each costs
-- microseconds a statement, so only those that matter are.
create or replace function replication.text_settings(t replication.replicated_tables)
returns table (setting text, value text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  with kinds as (
    select case when y.typtype = 'e' or y.oid in ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
                     or coalesce(e.oid, y.oid)
                     in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bool'::regtype, 'text'::regtype,
                         'varchar'::regtype, 'bpchar'::regtype, 'uuid'::regtype, 'numeric'::regtype,
                         'json'::regtype, 'jsonb'::regtype, 'inet'::regtype, 'cidr'::regtype,
                         'time'::regtype, 'timetz'::regtype)
                     or y.oid = 'bytea'::regtype then 'plain'
                when coalesce(e.oid, y.oid) in ('float4'::regtype, 'float8'::regtype) then 'float'
                else 'other' end as kind
      from replication.data_columns(t) c
      join pg_type y on y.oid = replication.base_type(c.type_id)
      left join pg_type e on e.oid = y.typelem and y.typsubscript = 'array_subscript_handler'::regproc
  )
  select s.setting, s.value
    from (values ('DateStyle', 'ISO, YMD', '{other}'::text[]), ('TimeZone', 'UTC', '{other}'),
                 ('extra_float_digits', '1', '{float,other}'),
                 ('IntervalStyle', 'postgres', '{other}'), ('bytea_output', 'hex', '{other}'),
                 ('lc_monetary', 'C', '{other}'), ('array_nulls', 'on', '{other}'),
                 ('quote_all_identifiers', 'off', '{other}'))
           as s(setting, value, matters)
   where exists (select from kinds where kind = any(s.matters))
$$;

-- The same, for the rest of the transaction; restore_settings() undoes it with what this returns.
create or replace function replication.pin_text_settings(t replication.replicated_tables)
returns text[] language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  former text[];
  pinned record;
begin
  for pinned in select * from replication.text_settings(t) loop
    former := former || array[array[pinned.setting, current_setting(pinned.setting)]];
    perform set_config(pinned.setting, pinned.value, true);
  end loop;
  return former;
end $$;

create or replace function replication.restore_settings(former text[])
returns void language sql set search_path = pg_catalog, pg_temp as $$
  select set_config(former[i][1], former[i][2], true) from generate_subscripts(former, 1) i
$$;

-- The middle of an event id, which says where the event is from: see refresh_capture().
create or replace function replication.event_origin(c replication.contour)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select '80' || lpad(to_hex(c.id & 255), 2, '0') || to_hex(8 + (c.id >> 8)) || left(c.incarnation::text, 3)
$$;

-- Compiles the function of the trigger that keeps merge_states true, of a table that merges columns. A row
-- trigger, before the row is stored: it sees each step of a row by itself, and in their order, whatever other
-- triggers do in between. The table may have changed since it was compiled.
create or replace function replication.refresh_merge(t replication.replicated_tables)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $refresh$
declare
  function_name constant text := format('replication.%I', 'merge_' || t.table_id);
  settings constant text := (
    select string_agg(format('set %I = %L', setting, value), ' ') from replication.text_settings(t));
begin
  if t.merge <> 'columns' then
    return;
  end if;
  execute format($sql$
create or replace function %1$s() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp %2$s
as %3$L $sql$,
    function_name, settings, format($sql$
declare
  registered replication.replicated_tables;
  former jsonb;
  former_key text;
  image jsonb;
  key text;
begin
  if tg_op = 'UPDATE' and new.replication_version is not distinct from old.replication_version then
    return new;
  end if;
  if replication.table_fingerprint(tg_relid) = %1$L then
    former := %2$s;
    former_key := %3$s;
    if tg_op = 'UPDATE' then
      image := %4$s;
      key := %5$s;
    end if;
  else
    registered := replication.current_table(%6$s);
    execute format('select %%s, %%s from (select ($1).*) o', replication.image_expression(registered, 'o', null),
                   replication.key_expression(registered, 'o')) into former, former_key using old;
    if tg_op = 'UPDATE' then
      execute format('select %%s, %%s from (select ($1).*) n', replication.image_expression(registered, 'n', null),
                     replication.key_expression(registered, 'n')) into image, key using new;
    end if;
  end if;
  if key is distinct from former_key then  -- a DELETE; what comes under the other key is as new
    perform replication.merge_write(%7$L, former_key, %8$L, %9$L, former, coalesce(old.replication_version, 0),
                                    null, null);
  else
    perform replication.merge_write(%7$L, key, %8$L, %9$L, former, coalesce(old.replication_version, 0),
                                    image, new.replication_version);
  end if;
  if tg_op = 'DELETE' then
    return old;
  end if;
  return new;
end $sql$,
      replication.table_fingerprint(t.relation),
      replication.image_expression(t, 'old', null), replication.key_expression(t, 'old'),
      replication.image_expression(t, 'new', null), replication.key_expression(t, 'new'),
      t.table_id, t.table_name, t.key_columns, t.delta_columns));
  execute format('alter function %s() owner to replication_owner', function_name);
  execute format('revoke all on function %s() from public', function_name);
  execute format('comment on function %s() is %L', function_name,
                 'Merge trigger of ' || t.table_name || '; generated by replication.refresh_merge.');
end $refresh$;

-- Compiles the capture function of one table.
create or replace function replication.refresh_capture(of_table integer)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $refresh$
declare
  function_name constant text := format('replication.%I', 'capture_' || of_table);
  t replication.replicated_tables;
  c constant replication.contour := (select c from replication.contour c);
  event_origin constant text := replication.event_origin(c);
begin
  -- Two sessions that replace a function at once fail; the second one must see what the first has done.
  perform pg_advisory_xact_lock(hashtext('replication.capture'), of_table);
  t := replication.current_table(of_table);
  if replication.key_expression(t, 'n') is null
     or cardinality(t.key_columns) > (select count(*) from replication.data_columns(t) d
                                       where d.attname = any(t.key_columns)) then
    raise exception using errcode = 'object_not_in_prerequisite_state',
      message = format('table %s is replicated, and needs its primary key', t.relation),
      hint = 'Give it another primary key in the same statement, or remove_table_from_replication() first.';
  end if;
  -- The table is named by its OID, so that a rename between two statements can't break the function.
  -- Without sequential scans: a plan made while there were no tombstones would else read them all, in
  -- each statement until the next ANALYZE.
  execute format($sql$
create or replace function %1$s() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off %2$s
as %3$L $sql$,
    function_name,
    (select string_agg(format('set %I = %L', setting, value), ' ') from replication.text_settings(t)),
    format($sql$
#variable_conflict use_variable
declare
  -- Event ids are UUIDs of version 8: time in 16 µs, contour, incarnation, queue id. After a restore the
  -- ids come again, the time does not.
  seed text;
  txid bigint;
  earliest bigint;
  salt bigint;
  shape text;
  compiled boolean;   -- whether the statements below know the table as it is
  -- A snapshot taken at the transaction's beginning may not show the newest tombstone of a key. Such
  -- writers lock the tombstones of new keys, and fail with a serialization error if one is newer.
  careful boolean;
  replication_role text;
  queued bigint;
  large boolean := false;
  largest bigint;
  registered replication.replicated_tables;
  former text[];
begin
  if tg_relid <> %1$s and pg_partition_root(tg_relid) is distinct from %1$s::regclass then
    if not exists (select from replication.replicated_tables r where r.table_id = %5$s
                      and r.relation in (tg_relid, pg_partition_root(tg_relid))) then
      return null;  -- a partition that has been detached
    end if;
    -- Restored from a dump: the table has another OID than this function was made for.
  end if;
  if pg_trigger_depth() > 1 then
    perform set_config('replication.nested_%5$s', 'yes', true);
  end if;
  if tg_op = 'DELETE' then
    select replication.table_fingerprint(%1$s::regclass) into shape from old_rows limit 1;
  else
    select replication.table_fingerprint(%1$s::regclass) into shape from new_rows limit 1;
  end if;
  if not found then
    return null;
  end if;
  compiled := coalesce(shape = %2$L, false);
  txid := pg_current_xact_id()::text::bigint;
  if compiled then  -- the common way: one statement, which queues nothing if it will not do
    if tg_op = 'INSERT' then
%6$s;
      if found then
        return null;
      end if;
    elsif tg_op = 'UPDATE' then
      seed := to_hex(replication.clock() >> 4) || %3$L;
      salt := hashtextextended(seed, %4$s);
%7$s;
      if found then
        return null;
      end if;
    else
      seed := to_hex(replication.clock() >> 4) || %3$L;
%8$s;
      get diagnostics queued = row_count;
%15$s
      if queued = (select count(*) from old_rows) then
        return null;
      end if;
    end if;
  end if;

  seed := to_hex(replication.clock() >> 4) || %3$L;
  earliest := replication.earliest_version();
  careful := current_setting('transaction_isolation') <> 'read committed';
  replication_role := current_setting('session_replication_role');
  if careful and tg_op <> 'DELETE' then
    if not compiled then
      execute replication.lock_statement(replication.current_table(%5$s), tg_op);
    elsif tg_op = 'INSERT' then
%13$s;
    else
%14$s;
    end if;
  end if;
  perform set_config('session_replication_role', 'replica', true);
  if not compiled then
    null;
  elsif tg_op = 'INSERT' then
    large := not %9$s;
  elsif tg_op = 'UPDATE' then
    large := not (%9$s and %10$s);
  else
    large := not %10$s;
  end if;
  if not compiled or large then
    -- The columns have changed since, or a row is so large that its image may not fit into 1 GB. Those
    -- are tried whole first, then without the images of the largest.
    registered := replication.current_table(%5$s);
    former := replication.pin_text_settings(registered);
    foreach largest in array array[null, 16777216, 262144] loop
      begin
        execute replication.capture_statement(registered, tg_op, tg_op <> 'DELETE', largest)
          using seed, txid, earliest;
        exit;
      exception when program_limit_exceeded or internal_error or out_of_memory then
        if largest = 262144 then
          raise;
        end if;
      end;
    end loop;
    perform replication.restore_settings(former);
  elsif tg_op = 'INSERT' then
%11$s;
  elsif tg_op = 'UPDATE' then
%12$s;
  end if;
  if tg_op = 'DELETE' then
    execute replication.revive_statement(replication.current_table(%5$s)) using seed, txid;
    perform set_config('replication.nested_%5$s', 'yes', true);
  end if;
  perform set_config('session_replication_role', replication_role, true);
  return null;
end $sql$,
    t.relation::oid, replication.table_fingerprint(t.relation),
    event_origin,
    hashtextextended(c.incarnation::text, 0), t.table_id,
    -- The guard leaves only versions of this very statement, and they hold the time.
    replication.capture_statement(t, 'INSERT', false, null, 'old_rows',
      format('to_hex(__version >> 14) || %L', event_origin), 'txid', 'earliest', true),
    replication.capture_statement(t, 'UPDATE IN PLACE', false, null, 'old_rows', 'seed', 'txid', 'earliest', true),
    replication.capture_statement(t, 'DELETE', false, null, 'old_rows', 'seed', 'txid', 'earliest', true),
    replication.small_expression(t, 'n'), replication.small_expression(t, 'o'),
    replication.capture_statement(t, 'INSERT', true, null, 'old_rows', 'seed', 'txid', 'earliest', false),
    replication.capture_statement(t, 'UPDATE', true, null, 'old_rows', 'seed', 'txid', 'earliest', false),
    replication.lock_statement(t, 'INSERT'), replication.lock_statement(t, 'UPDATE'),
    -- A cascade from a table into itself may have changed rows that it deleted afterwards.
    case when exists (select from pg_constraint k where k.contype = 'f' and k.conrelid = t.relation
                         and k.confrelid = t.relation)
         then format('      perform set_config(''replication.nested_%s'', ''yes'', true);', t.table_id) end));
  execute format('alter function %s() owner to replication_owner', function_name);
  execute format('revoke all on function %s() from public', function_name);
  execute format('comment on function %s() is %L', function_name,
                 'Capture trigger of ' || t.table_name || '; generated by replication.refresh_capture.');
  perform replication.refresh_merge(t);
  update replication.replicated_tables r
     set fingerprint = replication.table_fingerprint(t.relation),
         compiled_slot = (select active_slot from replication.queue_ring),
         key_columns = t.key_columns, include = t.include, exclude = t.exclude, delta_columns = t.delta_columns,
         listed_attnums = (select array_agg(a.attnum order by l.position)
                             from unnest(coalesce(t.include, t.exclude, t.delta_columns)) with ordinality as l(name, position)
                             left join pg_attribute a on a.attrelid = t.relation and a.attname = l.name)
   where r.table_id = t.table_id;
end $refresh$;
