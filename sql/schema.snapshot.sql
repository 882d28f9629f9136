CREATE SCHEMA replication;
ALTER SCHEMA replication OWNER TO replication_owner;
CREATE FUNCTION replication.base_type(type_id oid) RETURNS oid
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  with recursive chain as (
    select oid, typtype, typbasetype from pg_type where oid = type_id
    union all
    select t.oid, t.typtype, t.typbasetype from pg_type t join chain on t.oid = chain.typbasetype
     where chain.typtype = 'd'
  )
  select oid from chain where typtype <> 'd'
$$;
ALTER FUNCTION replication.base_type(type_id oid) OWNER TO replication_owner;
CREATE TABLE replication.replicated_tables (
    table_id integer NOT NULL,
    table_name text NOT NULL,
    relation regclass NOT NULL,
    key_columns text[] NOT NULL,
    full_before boolean DEFAULT false NOT NULL,
    fingerprint text NOT NULL,
    set_up_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT replicated_tables_key_columns_check CHECK ((cardinality(key_columns) > 0))
);
ALTER TABLE replication.replicated_tables OWNER TO replication_owner;
CREATE FUNCTION replication.capture_statement(t replication.replicated_tables, operation text, lifting boolean) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  new_rows text;
  old_rows text;
  changes text;  -- yields __key, __payload, __before, __version, __base, __operation, __k1, __k2, …
begin
  select format('(select %s as __key, n.replication_version as __version, row_to_json(__row) as __payload, %s '
                'from new_rows n cross join lateral (select %s) __row)',
                replication.key_expression(t.relation, t.key_columns, 'n'),
                string_agg(format('n.%I as __k%s', k.name, k.position), ', '),
                replication.projection(t.relation, 'n')),
         format('(select %s as __key, o.replication_version as __version, %s as __before, %s from old_rows o)',
                replication.key_expression(t.relation, t.key_columns, 'o'),
                case when t.full_before
                     then format('(select row_to_json(__row) from (select %s) __row)',
                                 replication.projection(t.relation, 'o'))
                     else 'null::json' end,
                string_agg(format('o.%I as __k%s', k.name, k.position), ', '))
    into new_rows, old_rows
    from unnest(t.key_columns) with ordinality as k(name, position);
  changes := case operation
    when 'INSERT' then format(
      'select __n.*, null::json as __before, null::bigint as __base, ''INSERT'' as __operation from %s __n',
      new_rows)
    when 'UPDATE' then format(
      'select coalesce(__n.__key, __o.__key) as __key, __n.__payload, __o.__before, '
      '       coalesce(__n.__version, replication.next_version(__o.__version)) as __version, '
      '       __o.__version as __base, %4$s, '
      '       case when __o.__key is null then ''INSERT'' when __n.__key is null then ''DELETE'' '
      '            else ''UPDATE'' end as __operation '
      '  from %1$s __n full join %2$s __o on %3$s where __n.__version is distinct from __o.__version',
      new_rows, old_rows,
      (select string_agg(format('__n.__k%1$s = __o.__k%1$s', i), ' and ')
         from generate_subscripts(t.key_columns, 1) i),
      (select string_agg(format('coalesce(__n.__k%1$s, __o.__k%1$s) as __k%1$s', i), ', ')
         from generate_subscripts(t.key_columns, 1) i))
    when 'DELETE' then format(
      'select __o.__key, null::json as __payload, __o.__before, %2$s, '
      '       replication.next_version(__o.__version) as __version, __o.__version as __base, '
      '       ''DELETE'' as __operation from %1$s __o', old_rows,
      (select string_agg(format('__o.__k%s', i), ', ') from generate_subscripts(t.key_columns, 1) i))
    end;
  if operation <> 'INSERT' then
    -- A trigger of the user's may have brought a deleted key back within the statement; then its own
    -- event tells the end of the story.
    changes := format(
      'select * from (%s) c where c.__operation <> ''DELETE'' or not exists (select from %s t where %s)',
      changes, t.relation,
      (select string_agg(format('t.%I = c.__k%s', k.name, k.position), ' and ')
         from unnest(t.key_columns) with ordinality as k(name, position)));
  end if;
  if not lifting then
    return format($sql$
with __events as (
  select nextval('replication.replication_queue_id_seq') as __id, c.__key, c.__payload, c.__before,
         c.__version, c.__base, c.__operation
    from (%s) c
)%s$sql$, changes, replication.queue_insert(t.table_name, buries => operation <> 'INSERT'));
  end if;
  -- A new key is compared with its tombstone, a key that changed hands with its former row.
  return format($sql$
with __changes as materialized (
  select c.*, (greatest(s.version, c.__base) >> 10) + 1 as __lifted_clock
    from (%1$s) c
    left join replication.replication_tombstones s on s.table_name = %2$L and s.record_key = c.__key
),
__lifted as (
  update %3$s t
     set replication_version = c.__lifted_clock << 10 | (select id from replication.contour)
    from __changes c
   where %4$s and c.__operation <> 'DELETE' and c.__version >> 10 < c.__lifted_clock
     and t.replication_version = c.__version  -- else a trigger has changed the row since
  returning c.__key, t.replication_version as __version
),
__events as (
  select nextval('replication.replication_queue_id_seq') as __id, c.__key, c.__payload, c.__before,
         coalesce(l.__version, c.__version) as __version, c.__base, c.__operation
    from __changes c left join __lifted l on l.__key = c.__key
)%5$s$sql$,
    changes, t.table_name, t.relation,
    (select string_agg(format('t.%I = c.__k%s', k.name, k.position), ' and ')
       from unnest(t.key_columns) with ordinality as k(name, position)),
    replication.queue_insert(t.table_name, buries => operation = 'UPDATE'));
end $_$;
ALTER FUNCTION replication.capture_statement(t replication.replicated_tables, operation text, lifting boolean) OWNER TO replication_owner;
CREATE FUNCTION replication.data_columns(relation regclass) RETURNS TABLE(attnum smallint, attname name, type_id oid)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select attnum, attname, atttypid
    from pg_attribute
   where attrelid = relation and attnum > 0 and not attisdropped and attgenerated = ''
     and attname <> 'replication_version'
   order by attnum
$$;
ALTER FUNCTION replication.data_columns(relation regclass) OWNER TO replication_owner;
CREATE FUNCTION replication.install_clock(clock_offset interval DEFAULT '00:00:00'::interval) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  contour_id constant integer := (select id from replication.contour);
  -- double precision holds microseconds exactly until 2255 and is several times faster than numeric
  clock constant text := format(
    '(date_part(''epoch'', clock_timestamp()) * 1000000)::bigint + %s',
    (extract(epoch from clock_offset) * 1000000)::bigint);
begin
  execute format($sql$
    create or replace function replication.next_version(predecessor bigint)
    returns bigint language sql volatile parallel safe as
    $body$ select (greatest(%s, (predecessor >> 10) + 1) << 10) | %s $body$ $sql$, clock, contour_id);
  -- BEFORE ROW, of every replicated table. Runs as the writing role, which needs no right for it:
  -- nothing but pg_catalog is called. The name of the triggers sorts last, so that they see the row
  -- as it will be stored.
  execute format($sql$
    create or replace function replication.stamp_insert() returns trigger language plpgsql as $body$
    begin
      new.replication_version := ((%s) << 10) | %s;
      return new;
    end $body$ $sql$, clock, contour_id);
  -- An UPDATE that changes nothing keeps its version: it is no event, and must not win over a real
  -- change made elsewhere. *= compares images, so it needs no equality operator (json, point).
  execute format($sql$
    create or replace function replication.stamp_update() returns trigger language plpgsql as $body$
    begin
      new.replication_version := old.replication_version;
      if not (new operator(pg_catalog.*=) old) then
        new.replication_version := (greatest(%s, (old.replication_version >> 10) + 1) << 10) | %s;
      end if;
      return new;
    end $body$ $sql$, clock, contour_id);
end $_$;
ALTER FUNCTION replication.install_clock(clock_offset interval) OWNER TO replication_owner;
CREATE FUNCTION replication.key_expression(relation regclass, key_columns text[], alias text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select '''{'' || ' || string_agg(
           format('%L || %s', to_json(k.name)::text || ':',
                  case when replication.base_type(c.type_id)
                            in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bool'::regtype)
                       then format('%s.%I::text', alias, k.name)
                       else format('to_json(%s)::text',
                                   replication.wire_expression(format('%s.%I', alias, k.name), c.type_id))
                  end),
           ' || '','' || ' order by k.position) || ' || ''}'''
    from unnest(key_columns) with ordinality as k(name, position)
    join replication.data_columns(relation) c on c.attname = k.name
$$;
ALTER FUNCTION replication.key_expression(relation regclass, key_columns text[], alias text) OWNER TO replication_owner;
CREATE FUNCTION replication.lock_statement(t replication.replicated_tables, operation text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
  select format($sql$
insert into replication.replication_tombstones as s (table_name, record_key, version)
select %L, %s, 1 from new_rows n %s order by 2
on conflict on constraint replication_tombstones_pkey do update set version = s.version$sql$,
    t.table_name, replication.key_expression(t.relation, t.key_columns, 'n'),
    case when operation = 'UPDATE' then format('where not exists (select from old_rows o where %s)',
      (select string_agg(format('n.%1$I = o.%1$I', k), ' and ') from unnest(t.key_columns) k))
    else '' end)
$_$;
ALTER FUNCTION replication.lock_statement(t replication.replicated_tables, operation text) OWNER TO replication_owner;
CREATE FUNCTION replication.next_version(predecessor bigint) RETURNS bigint
    LANGUAGE sql PARALLEL SAFE
    AS $$ select (greatest((date_part('epoch', clock_timestamp()) * 1000000)::bigint + 0, (predecessor >> 10) + 1) << 10) | 1 $$;
ALTER FUNCTION replication.next_version(predecessor bigint) OWNER TO replication_owner;
CREATE FUNCTION replication.projection(relation regclass, alias text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select string_agg(format('%s as %I', replication.wire_expression(format('%s.%I', alias, attname), type_id),
                           attname), ', ' order by attnum)
    from replication.data_columns(relation)
$$;
ALTER FUNCTION replication.projection(relation regclass, alias text) OWNER TO replication_owner;
CREATE FUNCTION replication.queue_insert(table_name text, buries boolean) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
  select case when buries then format($sql$,
__buried as (
  insert into replication.replication_tombstones as s (table_name, record_key, version)
  select %L, __key, __version from __events where __operation = 'DELETE'
  on conflict on constraint replication_tombstones_pkey
  do update set version = greatest(s.version, excluded.version), deleted_at = excluded.deleted_at
)$sql$, table_name) else '' end || format($sql$
insert into replication.replication_queue
  (id, event_id, table_name, operation, record_key, payload, before, version, base_version, shard, txid)
select __id, ($1 || lpad(to_hex(__id), 12, '0'))::uuid, %L, __operation, __key, __payload, __before,
       __version, __base, (hashtext(__key) & 15)::smallint, $2
  from __events$sql$, table_name)
$_$;
ALTER FUNCTION replication.queue_insert(table_name text, buries boolean) OWNER TO replication_owner;
CREATE FUNCTION replication.refresh_capture(t replication.replicated_tables) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  function_name constant text := format('replication.%I', 'capture_' || t.table_id);
begin
  -- plpgsql variables stand in for $1 and $2 of the generated statements. The table is named by its
  -- OID, so that a rename between two statements can't break the function.
  execute format($sql$
create or replace function %1$s() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp
set "DateStyle" = 'ISO, YMD' set "IntervalStyle" = 'postgres' set "TimeZone" = 'UTC'
set extra_float_digits = 1 set bytea_output = 'hex' set lc_monetary = 'C' set xmlbinary = 'base64'
as $capture$
declare
  -- Randomness once a statement: a UUID for each row would cost more than all else together.
  seed constant text := overlay(left(gen_random_uuid()::text, 24) placing '8' from 15);
  txid constant bigint := pg_current_xact_id()::text::bigint;
  shape text;
  lowest bigint;      -- version among the new rows; null: the statement touched no row
  bar bigint;         -- no new version may be at or below it without a closer look
  lifting boolean;
  -- A snapshot taken at the transaction's beginning may not show the newest tombstone of a key. Such
  -- writers lock the tombstones of new keys, and fail with a serialization error if one is newer.
  careful constant boolean := current_setting('transaction_isolation') <> 'read committed';
begin
  if tg_op = 'DELETE' then
    select replication.table_fingerprint(%2$s::regclass), 1 into shape, lowest from old_rows limit 1;
  else
    select replication.table_fingerprint(%2$s::regclass), min(n.replication_version)
      into shape, lowest from new_rows n;
    if not careful then
      bar := (select max(s.version) from replication.replication_tombstones s
               where s.table_name = %3$L);
    end if;
    if tg_op = 'UPDATE' then
      bar := greatest(bar, (select max(o.replication_version) from old_rows o));
    end if;
  end if;
  if lowest is null then
    return null;
  end if;
  if tg_op = 'UPDATE' and bar >= lowest then  -- rows that did not change have old versions
    select min(n.replication_version) into lowest from new_rows n
     where not exists (select from old_rows o where o.replication_version = n.replication_version);
    if lowest is null then
      return null;
    end if;
  end if;
  lifting := tg_op <> 'DELETE' and (careful or coalesce(bar >= lowest, false));
  if careful and lifting then
    execute (select replication.lock_statement(t, tg_op)
               from replication.replicated_tables t where t.table_id = %5$s);
  end if;
  if lifting then
    perform set_config('session_replication_role', 'replica', true);
  end if;
  if shape is distinct from %4$L then
    execute (select replication.capture_statement(t, tg_op, lifting)
               from replication.replicated_tables t where t.table_id = %5$s) using seed, txid;
  elsif tg_op = 'INSERT' then
    if lifting then
%6$s;
    else
%7$s;
    end if;
  elsif tg_op = 'UPDATE' then
    if lifting then
%8$s;
    else
%9$s;
    end if;
  else
%10$s;
  end if;
  if lifting then
    perform set_config('session_replication_role', 'origin', true);
  end if;
  return null;
end $capture$ $sql$,
    function_name, t.relation::oid, t.table_name, replication.table_fingerprint(t.relation),
    t.table_id,
    replication.with_variables(replication.capture_statement(t, 'INSERT', true)),
    replication.with_variables(replication.capture_statement(t, 'INSERT', false)),
    replication.with_variables(replication.capture_statement(t, 'UPDATE', true)),
    replication.with_variables(replication.capture_statement(t, 'UPDATE', false)),
    replication.with_variables(replication.capture_statement(t, 'DELETE', false)));
  execute format('alter function %s() owner to replication_owner', function_name);
  execute format('revoke all on function %s() from public', function_name);
  execute format('comment on function %s() is %L', function_name,
                 'Capture trigger of ' || t.table_name || '; generated by replication.refresh_capture.');
  update replication.replicated_tables r
     set fingerprint = replication.table_fingerprint(t.relation)
   where r.table_id = t.table_id;
end $_$;
ALTER FUNCTION replication.refresh_capture(t replication.replicated_tables) OWNER TO replication_owner;
CREATE FUNCTION replication.refuse_truncate() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  raise exception using errcode = 'feature_not_supported', table = tg_table_name,
    message = format('table %I.%I is replicated, and TRUNCATE can''t be', tg_table_schema, tg_table_name),
    hint = 'DELETE FROM the table, or remove_table_from_replication() first.';
end $$;
ALTER FUNCTION replication.refuse_truncate() OWNER TO replication_owner;
CREATE FUNCTION replication.refuse_unfit_table(relation regclass) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  c pg_class;
  key pg_constraint;
  bad_key name;
  problem text;
  remedy text;
begin
  select * into c from pg_class where oid = relation;
  select * into key from pg_constraint where conrelid = relation and contype = 'p';
  -- Keys are compared as text between contours: 1.0 and 1.00, or -0 and 0, must not be two keys.
  select a.attname into bad_key from pg_attribute a
   where a.attrelid = relation and a.attnum = any(key.conkey)
     and not coalesce((
       select case
         when b.oid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bool'::regtype,
                        'uuid'::regtype, 'date'::regtype, 'time'::regtype, 'timestamp'::regtype,
                        'timestamptz'::regtype, 'oid'::regtype, 'inet'::regtype, 'cidr'::regtype,
                        'macaddr'::regtype, 'macaddr8'::regtype, 'pg_lsn'::regtype) then true
         when b.oid in ('numeric'::regtype, 'bpchar'::regtype)
              then coalesce(nullif(a.atttypmod, -1), (select typtypmod from pg_type where oid = a.atttypid)) <> -1
         when b.oid in ('text'::regtype, 'varchar'::regtype)
              then (select collisdeterministic from pg_collation where oid = a.attcollation)
         else b.typtype = 'e' end
         from pg_type b where b.oid = replication.base_type(a.atttypid)), false)
   limit 1;
  if c.oid is null then
    problem := 'it does not exist';
    remedy := 'Give the name of an existing table.';
  elsif c.relkind = 'p' or c.relispartition then
    problem := 'it is partitioned';
    remedy := 'Partitioned tables are not supported yet.';
  elsif c.relkind <> 'r' then
    problem := 'it is not an ordinary table';
    remedy := 'Only tables are replicated, no views, foreign tables or sequences.';
  elsif c.relpersistence <> 'p' then
    problem := case c.relpersistence when 't' then 'it is temporary' else 'it is unlogged' end;
    remedy := 'Rows that a crash may empty can''t be kept equal: ALTER TABLE … SET LOGGED.';
  elsif exists (select from pg_inherits where inhrelid = relation or inhparent = relation) then
    problem := 'it takes part in inheritance';
    remedy := 'Use separate tables.';
  elsif c.relnamespace = 'replication'::regnamespace
        or c.relnamespace in (select oid from pg_namespace where nspname in ('pg_catalog', 'information_schema')) then
    problem := 'it belongs to the system';
    remedy := 'Replicate tables of your own schemas.';
  elsif key.oid is null then
    problem := 'it has no primary key';
    remedy := format('ALTER TABLE %s ADD PRIMARY KEY (…).', relation);
  elsif key.condeferrable then
    problem := 'its primary key is deferrable';
    remedy := 'Make the key NOT DEFERRABLE: upserts can''t use a deferrable one.';
  elsif bad_key is not null then
    problem := format('its key column %s has a type whose equal values may have different texts', bad_key);
    remedy := 'Use a key of integers, text, uuid, dates, enums or numerics of fixed scale.';
  elsif exists (select from pg_constraint where conrelid = relation and contype in ('u', 'x') and condeferrable) then
    problem := 'it has a deferrable unique or exclusion constraint';
    remedy := 'Make it NOT DEFERRABLE: deferrable ones are not checked while remote changes are applied.';
  elsif c.relrowsecurity then
    problem := 'it has row level security';
    remedy := 'ALTER TABLE … DISABLE ROW LEVEL SECURITY: policies would hide rows from the applier.';
  elsif exists (select from pg_attribute where attrelid = relation and attname = 'replication_version'
                   and not attisdropped and (atttypid <> 'bigint'::regtype or not attnotnull)) then
    problem := 'it has a column replication_version of its own';
    remedy := 'Rename that column; the name is needed for a bigint.';
  else
    return;
  end if;
  raise exception using errcode = 'wrong_object_type', table = c.relname,
    message = format('table %s can''t be replicated: %s', relation, problem), hint = remedy;
end $$;
ALTER FUNCTION replication.refuse_unfit_table(relation regclass) OWNER TO replication_owner;
CREATE FUNCTION replication.remove_table_from_replication(relation regclass, drop_version_column boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  registered replication.replicated_tables;
  trigger_name text;
begin
  delete from replication.replicated_tables r
   where r.relation = remove_table_from_replication.relation returning * into registered;
  for trigger_name in
    select tgname from pg_trigger
     where tgrelid = relation and not tgisinternal
       and (tgname like 'zz\_replication\_stamp\_%' or tgname like 'replication\_capture\_%'
            or tgname = 'replication_refuse_truncate')
  loop
    execute format('drop trigger %I on %s', trigger_name, relation);
  end loop;
  if registered.table_id is not null then
    execute format('drop function if exists replication.%I()', 'capture_' || registered.table_id);
    execute format('revoke select, insert, update, delete on %s from replication_consumer', relation);
    execute format('revoke select, update on %s from replication_owner', relation);
  end if;
  if drop_version_column then
    execute format('alter table %s drop column if exists replication_version', relation);
  end if;
end $$;
ALTER FUNCTION replication.remove_table_from_replication(relation regclass, drop_version_column boolean) OWNER TO replication_owner;
CREATE FUNCTION replication.setup_table_for_replication(relation regclass, full_before boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET client_min_messages TO 'warning'
    AS $$
declare
  c pg_class;
  key pg_constraint;
  registered replication.replicated_tables;
  name_in_events constant text := (
    select case when n.nspname = 'public' then r.relname else n.nspname || '.' || r.relname end
      from pg_class r join pg_namespace n on n.oid = r.relnamespace where r.oid = relation);
  function_name text;
begin
  select * into c from pg_class where oid = relation;
  perform replication.refuse_unfit_table(relation);
  select * into key from pg_constraint where conrelid = relation and contype = 'p';
  execute format('lock table %s in share row exclusive mode', relation);
  execute format('alter table %s add column if not exists replication_version bigint not null default 0',
                 relation);
  execute format('comment on column %s.replication_version is %L', relation,
                 'Set by replication_pipeline: µs since 1970 << 10 | contour. Not for applications.');
  insert into replication.replicated_tables as r
         (table_name, relation, key_columns, full_before, fingerprint)
  values (name_in_events, relation,
          (select array_agg(a.attname::text order by k.position)
             from unnest(key.conkey) with ordinality k(attnum, position)
             join pg_attribute a on a.attrelid = relation and a.attnum = k.attnum),
          setup_table_for_replication.full_before, '')
  on conflict on constraint replicated_tables_relation_key
  do update set key_columns = excluded.key_columns, full_before = excluded.full_before
  returning * into registered;
  perform replication.refresh_capture(registered);
  function_name := format('replication.%I', 'capture_' || registered.table_id);
  -- `zz`: BEFORE triggers fire by name, and the version must be stamped last.
  execute format('create or replace trigger zz_replication_stamp_insert before insert on %s '
                 'for each row execute function replication.stamp_insert()', relation);
  execute format('create or replace trigger zz_replication_stamp_update before update on %s '
                 'for each row execute function replication.stamp_update()', relation);
  execute format('create or replace trigger replication_capture_insert after insert on %s '
                 'referencing new table as new_rows for each statement execute function %s()',
                 relation, function_name);
  execute format('create or replace trigger replication_capture_update after update on %s '
                 'referencing old table as old_rows new table as new_rows '
                 'for each statement execute function %s()', relation, function_name);
  execute format('create or replace trigger replication_capture_delete after delete on %s '
                 'referencing old table as old_rows for each statement execute function %s()',
                 relation, function_name);
  execute format('create or replace trigger replication_refuse_truncate before truncate on %s '
                 'for each statement execute function replication.refuse_truncate()', relation);
  execute format('grant usage on schema %I to replication_consumer, replication_owner',
                 (select nspname from pg_namespace where oid = c.relnamespace));
  execute format('grant select, insert, update, delete on %s to replication_consumer', relation);
  execute format('grant select, update on %s to replication_owner', relation);
end $$;
ALTER FUNCTION replication.setup_table_for_replication(relation regclass, full_before boolean) OWNER TO replication_owner;
CREATE FUNCTION replication.stamp_insert() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
    begin
      new.replication_version := (((date_part('epoch', clock_timestamp()) * 1000000)::bigint + 0) << 10) | 1;
      return new;
    end $$;
ALTER FUNCTION replication.stamp_insert() OWNER TO replication_owner;
CREATE FUNCTION replication.stamp_update() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
    begin
      new.replication_version := old.replication_version;
      if not (new operator(pg_catalog.*=) old) then
        new.replication_version := (greatest((date_part('epoch', clock_timestamp()) * 1000000)::bigint + 0, (old.replication_version >> 10) + 1) << 10) | 1;
      end if;
      return new;
    end $$;
ALTER FUNCTION replication.stamp_update() OWNER TO replication_owner;
CREATE FUNCTION replication.table_fingerprint(relation regclass) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select md5(string_agg(concat_ws(':', c.relnamespace, c.relname, a.attnum, a.attname, a.atttypid,
                                  a.atttypmod, a.attgenerated), ',' order by a.attnum))
    from pg_class c join pg_attribute a on a.attrelid = c.oid
   where c.oid = relation and a.attnum > 0 and not a.attisdropped
$$;
ALTER FUNCTION replication.table_fingerprint(relation regclass) OWNER TO replication_owner;
CREATE FUNCTION replication.wire_expression(reference text, type_id oid) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  base constant oid := replication.base_type(type_id);
  element constant oid := (select typelem from pg_type where oid = base and typsubscript = 'array_subscript_handler'::regproc);
  element_kind constant "char" := (select typtype from pg_type where oid = element);
begin
  if base in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bool'::regtype,
              'float4'::regtype, 'float8'::regtype, 'text'::regtype, 'varchar'::regtype,
              'bpchar'::regtype, 'uuid'::regtype) then
    return reference;
  elsif base = 'timestamptz'::regtype then  -- UTC by the pinned TimeZone
    return format('case when %1$s >= ''0001-01-01Z''::timestamptz and %1$s < ''10000-01-01Z''::timestamptz '
                  'then replace(replace(%1$s::text, '' '', ''T''), ''+00'', ''Z'') else %1$s::text end',
                  reference);
  elsif base = 'timestamp'::regtype then
    return format('case when %1$s >= ''0001-01-01''::timestamp and %1$s < ''10000-01-01''::timestamp '
                  'then replace(%1$s::text, '' '', ''T'') else %1$s::text end', reference);
  elsif base = 'bytea'::regtype then
    return format('translate(encode(%s, ''base64''), E''\n'', '''')', reference);
  elsif element in ('json'::regtype, 'jsonb'::regtype) or element_kind in ('c', 'd') then
    return reference || '::text';
  elsif element <> 0 then
    return format('case when array_ndims(%1$s) is null or (array_ndims(%1$s) = 1 and array_lower(%1$s, 1) = 1) '
                  'then to_json(%2$s) else to_json(%1$s::text) end', reference,
                  case when element in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype,
                                        'bool'::regtype, 'float4'::regtype, 'float8'::regtype,
                                        'text'::regtype, 'varchar'::regtype, 'uuid'::regtype)
                       then reference else reference || '::text[]' end);
  end if;
  return reference || '::text';
end $_$;
ALTER FUNCTION replication.wire_expression(reference text, type_id oid) OWNER TO replication_owner;
CREATE FUNCTION replication.with_variables(statement text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
  select replace(replace(statement, '($1 ||', '(seed ||'), ', $2' || E'\n', ', txid' || E'\n')
$_$;
ALTER FUNCTION replication.with_variables(statement text) OWNER TO replication_owner;
CREATE TABLE replication.consumer_offsets (
    topic text NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    high_watermark bigint DEFAULT 0 NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT consumer_offsets_next_offset_check CHECK ((next_offset >= 0)),
    CONSTRAINT consumer_offsets_partition_check CHECK ((partition >= 0))
)
WITH (fillfactor='50');
ALTER TABLE replication.consumer_offsets OWNER TO replication_owner;
CREATE TABLE replication.contour (
    only_row boolean DEFAULT true NOT NULL,
    name text NOT NULL,
    id integer NOT NULL,
    incarnation uuid DEFAULT gen_random_uuid() NOT NULL,
    schema_version integer NOT NULL,
    installed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    upgraded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT contour_id_check CHECK (((id >= 1) AND (id <= 1023))),
    CONSTRAINT contour_name_check CHECK ((name ~ '^[a-z][a-z0-9_]{0,30}$'::text)),
    CONSTRAINT contour_only_row_check CHECK (only_row)
);
ALTER TABLE replication.contour OWNER TO replication_owner;
CREATE TABLE replication.parked_events (
    id bigint NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    kafka_offset bigint NOT NULL,
    event_id uuid,
    table_name text,
    record_key text,
    version bigint,
    reason text NOT NULL,
    detail text DEFAULT ''::text NOT NULL,
    event bytea NOT NULL,
    attempts integer DEFAULT 1 NOT NULL,
    parked_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    retried_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT parked_events_attempts_check CHECK ((attempts > 0)),
    CONSTRAINT parked_events_reason_check CHECK ((reason = ANY (ARRAY['missing_parent'::text, 'referenced'::text, 'clock_skew'::text, 'unknown_column'::text, 'unknown_table'::text, 'unique_conflict'::text, 'constraint'::text, 'bad_value'::text, 'malformed'::text])))
);
ALTER TABLE replication.parked_events OWNER TO replication_owner;
ALTER TABLE replication.parked_events ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME replication.parked_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE replication.processed_events (
    event_id uuid NOT NULL,
    processed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
ALTER TABLE replication.processed_events OWNER TO replication_owner;
CREATE TABLE replication.publish_shards (
    shard smallint NOT NULL
);
ALTER TABLE replication.publish_shards OWNER TO replication_owner;
ALTER TABLE replication.replicated_tables ALTER COLUMN table_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME replication.replicated_tables_table_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE replication.replication_conflicts (
    id bigint NOT NULL,
    table_name text NOT NULL,
    record_key text NOT NULL,
    event_id uuid NOT NULL,
    incoming_contour text NOT NULL,
    incoming_version bigint NOT NULL,
    incoming_base bigint,
    current_version bigint NOT NULL,
    winner text NOT NULL,
    incoming_row json,
    current_row json,
    recorded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT replication_conflicts_winner_check CHECK ((winner = ANY (ARRAY['incoming'::text, 'current'::text])))
);
ALTER TABLE replication.replication_conflicts OWNER TO replication_owner;
ALTER TABLE replication.replication_conflicts ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME replication.replication_conflicts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE replication.replication_queue (
    id bigint NOT NULL,
    event_id uuid NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    record_key text NOT NULL,
    payload json,
    before json,
    version bigint NOT NULL,
    base_version bigint,
    shard smallint NOT NULL,
    txid bigint NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    published boolean DEFAULT false NOT NULL,
    published_at timestamp with time zone,
    attempts integer DEFAULT 0 NOT NULL,
    last_error text,
    parked_at timestamp with time zone,
    CONSTRAINT parked_is_not_published CHECK ((NOT (published AND (parked_at IS NOT NULL)))),
    CONSTRAINT payload_fits_operation CHECK (((payload IS NULL) = (operation = 'DELETE'::text))),
    CONSTRAINT published_has_time CHECK ((published = (published_at IS NOT NULL))),
    CONSTRAINT replication_queue_attempts_check CHECK ((attempts >= 0)),
    CONSTRAINT replication_queue_operation_check CHECK ((operation = ANY (ARRAY['INSERT'::text, 'UPDATE'::text, 'DELETE'::text, 'SNAPSHOT'::text]))),
    CONSTRAINT replication_queue_version_check CHECK ((version > 0))
)
WITH (autovacuum_vacuum_scale_factor='0.0', autovacuum_vacuum_threshold='20000', autovacuum_vacuum_insert_scale_factor='0.0', autovacuum_vacuum_insert_threshold='200000', autovacuum_analyze_scale_factor='0.0', autovacuum_analyze_threshold='100000');
ALTER TABLE replication.replication_queue OWNER TO replication_owner;
ALTER TABLE replication.replication_queue ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME replication.replication_queue_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE replication.replication_tombstones (
    table_name text NOT NULL,
    record_key text NOT NULL,
    version bigint NOT NULL,
    deleted_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    unsettled boolean DEFAULT false NOT NULL,
    settle_horizon xid8,
    CONSTRAINT replication_tombstones_version_check CHECK ((version > 0))
);
ALTER TABLE replication.replication_tombstones OWNER TO replication_owner;
CREATE TABLE replication.workers (
    instance text NOT NULL,
    role text NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    heartbeat_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    stopped_at timestamp with time zone,
    last_success_at timestamp with time zone,
    batches bigint DEFAULT 0 NOT NULL,
    processed bigint DEFAULT 0 NOT NULL,
    failed bigint DEFAULT 0 NOT NULL,
    applied bigint DEFAULT 0 NOT NULL,
    skipped bigint DEFAULT 0 NOT NULL,
    conflicts bigint DEFAULT 0 NOT NULL,
    bytes bigint DEFAULT 0 NOT NULL,
    CONSTRAINT workers_role_check CHECK ((role = ANY (ARRAY['publisher'::text, 'applier'::text])))
)
WITH (fillfactor='50');
ALTER TABLE replication.workers OWNER TO replication_owner;
CREATE VIEW replication.status AS
 SELECT c.name AS contour,
    q.unpublished,
    q.oldest_unpublished_seconds,
    q.parked_publish,
    ( SELECT count(*) AS count
           FROM replication.parked_events) AS parked_apply,
    w.publishers,
    w.appliers,
    ( SELECT (COALESCE(sum(GREATEST((o.high_watermark - o.next_offset), (0)::bigint)), (0)::numeric))::bigint AS "coalesce"
           FROM replication.consumer_offsets o) AS apply_lag_events,
    w.processed_total,
    w.failed_total,
    w.applied_total,
    w.skipped_total,
    w.conflicts_total
   FROM ((replication.contour c
     CROSS JOIN LATERAL ( SELECT count(*) AS unpublished,
            COALESCE((EXTRACT(epoch FROM (clock_timestamp() - min(replication_queue.created_at))))::double precision, (0)::double precision) AS oldest_unpublished_seconds,
            count(*) FILTER (WHERE (replication_queue.parked_at IS NOT NULL)) AS parked_publish
           FROM replication.replication_queue
          WHERE (NOT replication_queue.published)) q)
     CROSS JOIN LATERAL ( SELECT count(*) FILTER (WHERE ((w_1.role = 'publisher'::text) AND w_1.alive)) AS publishers,
            count(*) FILTER (WHERE ((w_1.role = 'applier'::text) AND w_1.alive)) AS appliers,
            (COALESCE(sum(w_1.processed) FILTER (WHERE (w_1.role = 'publisher'::text)), (0)::numeric))::bigint AS processed_total,
            (COALESCE(sum(w_1.failed), (0)::numeric))::bigint AS failed_total,
            (COALESCE(sum(w_1.applied), (0)::numeric))::bigint AS applied_total,
            (COALESCE(sum(w_1.skipped), (0)::numeric))::bigint AS skipped_total,
            (COALESCE(sum(w_1.conflicts), (0)::numeric))::bigint AS conflicts_total
           FROM ( SELECT workers.instance,
                    workers.role,
                    workers.started_at,
                    workers.heartbeat_at,
                    workers.stopped_at,
                    workers.last_success_at,
                    workers.batches,
                    workers.processed,
                    workers.failed,
                    workers.applied,
                    workers.skipped,
                    workers.conflicts,
                    workers.bytes,
                    ((workers.stopped_at IS NULL) AND (workers.heartbeat_at > (clock_timestamp() - '00:00:15'::interval))) AS alive
                   FROM replication.workers) w_1) w);
ALTER VIEW replication.status OWNER TO replication_owner;
COMMENT ON VIEW replication.status IS 'One row: backlog, lag in seconds, parked events, live workers and counters of this contour.';
ALTER TABLE ONLY replication.consumer_offsets
    ADD CONSTRAINT consumer_offsets_pkey PRIMARY KEY (topic, partition);
ALTER TABLE ONLY replication.contour
    ADD CONSTRAINT contour_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY replication.parked_events
    ADD CONSTRAINT parked_events_pkey PRIMARY KEY (id);
ALTER TABLE ONLY replication.parked_events
    ADD CONSTRAINT parked_events_topic_partition_kafka_offset_key UNIQUE (topic, partition, kafka_offset);
ALTER TABLE ONLY replication.processed_events
    ADD CONSTRAINT processed_events_pkey PRIMARY KEY (event_id);
ALTER TABLE ONLY replication.publish_shards
    ADD CONSTRAINT publish_shards_pkey PRIMARY KEY (shard);
ALTER TABLE ONLY replication.replicated_tables
    ADD CONSTRAINT replicated_tables_pkey PRIMARY KEY (table_id);
ALTER TABLE ONLY replication.replicated_tables
    ADD CONSTRAINT replicated_tables_relation_key UNIQUE (relation);
ALTER TABLE ONLY replication.replicated_tables
    ADD CONSTRAINT replicated_tables_table_name_key UNIQUE (table_name);
ALTER TABLE ONLY replication.replication_conflicts
    ADD CONSTRAINT replication_conflicts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY replication.replication_queue
    ADD CONSTRAINT replication_queue_pkey PRIMARY KEY (id);
ALTER TABLE ONLY replication.replication_tombstones
    ADD CONSTRAINT replication_tombstones_pkey PRIMARY KEY (table_name, record_key);
ALTER TABLE ONLY replication.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (instance);
CREATE INDEX parked_events_table ON replication.parked_events USING btree (table_name, id);
CREATE INDEX processed_events_age ON replication.processed_events USING brin (processed_at);
CREATE INDEX replication_conflicts_age ON replication.replication_conflicts USING btree (recorded_at);
CREATE INDEX replication_queue_parked ON replication.replication_queue USING btree (table_name, record_key) WHERE (parked_at IS NOT NULL);
CREATE INDEX replication_queue_published ON replication.replication_queue USING btree (published_at) WHERE published;
CREATE INDEX replication_queue_waiting ON replication.replication_queue USING btree (shard, id) WHERE (NOT published);
CREATE INDEX replication_tombstones_unsettled ON replication.replication_tombstones USING btree (table_name) WHERE unsettled;
CREATE INDEX replication_tombstones_version ON replication.replication_tombstones USING btree (table_name, version);
GRANT USAGE ON SCHEMA replication TO replication_publisher;
GRANT USAGE ON SCHEMA replication TO replication_consumer;
GRANT USAGE ON SCHEMA replication TO replication_monitor;
REVOKE ALL ON FUNCTION replication.base_type(type_id oid) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.base_type(type_id oid) TO replication_consumer;
GRANT SELECT ON TABLE replication.replicated_tables TO replication_publisher;
GRANT SELECT ON TABLE replication.replicated_tables TO replication_consumer;
GRANT SELECT ON TABLE replication.replicated_tables TO replication_monitor;
REVOKE ALL ON FUNCTION replication.capture_statement(t replication.replicated_tables, operation text, lifting boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION replication.data_columns(relation regclass) FROM PUBLIC;
REVOKE ALL ON FUNCTION replication.install_clock(clock_offset interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION replication.key_expression(relation regclass, key_columns text[], alias text) FROM PUBLIC;
REVOKE ALL ON FUNCTION replication.lock_statement(t replication.replicated_tables, operation text) FROM PUBLIC;
REVOKE ALL ON FUNCTION replication.next_version(predecessor bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION replication.projection(relation regclass, alias text) FROM PUBLIC;
REVOKE ALL ON FUNCTION replication.queue_insert(table_name text, buries boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION replication.refresh_capture(t replication.replicated_tables) FROM PUBLIC;
REVOKE ALL ON FUNCTION replication.refuse_truncate() FROM PUBLIC;
REVOKE ALL ON FUNCTION replication.refuse_unfit_table(relation regclass) FROM PUBLIC;
REVOKE ALL ON FUNCTION replication.remove_table_from_replication(relation regclass, drop_version_column boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION replication.setup_table_for_replication(relation regclass, full_before boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION replication.stamp_insert() FROM PUBLIC;
REVOKE ALL ON FUNCTION replication.stamp_update() FROM PUBLIC;
REVOKE ALL ON FUNCTION replication.table_fingerprint(relation regclass) FROM PUBLIC;
GRANT ALL ON FUNCTION replication.table_fingerprint(relation regclass) TO replication_consumer;
REVOKE ALL ON FUNCTION replication.wire_expression(reference text, type_id oid) FROM PUBLIC;
REVOKE ALL ON FUNCTION replication.with_variables(statement text) FROM PUBLIC;
GRANT SELECT ON TABLE replication.consumer_offsets TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.consumer_offsets TO replication_consumer;
GRANT SELECT ON TABLE replication.consumer_offsets TO replication_monitor;
GRANT SELECT ON TABLE replication.contour TO replication_publisher;
GRANT SELECT ON TABLE replication.contour TO replication_consumer;
GRANT SELECT ON TABLE replication.contour TO replication_monitor;
GRANT SELECT ON TABLE replication.parked_events TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.parked_events TO replication_consumer;
GRANT SELECT ON TABLE replication.parked_events TO replication_monitor;
GRANT SELECT,DELETE ON TABLE replication.processed_events TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.processed_events TO replication_consumer;
GRANT SELECT ON TABLE replication.processed_events TO replication_monitor;
GRANT SELECT,UPDATE ON TABLE replication.publish_shards TO replication_publisher;
GRANT SELECT ON TABLE replication.publish_shards TO replication_consumer;
GRANT SELECT ON TABLE replication.publish_shards TO replication_monitor;
GRANT SELECT,DELETE ON TABLE replication.replication_conflicts TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.replication_conflicts TO replication_consumer;
GRANT SELECT ON TABLE replication.replication_conflicts TO replication_monitor;
GRANT SELECT,DELETE,UPDATE ON TABLE replication.replication_queue TO replication_publisher;
GRANT SELECT ON TABLE replication.replication_queue TO replication_consumer;
GRANT SELECT ON TABLE replication.replication_queue TO replication_monitor;
GRANT SELECT ON TABLE replication.replication_tombstones TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.replication_tombstones TO replication_consumer;
GRANT SELECT ON TABLE replication.replication_tombstones TO replication_monitor;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.workers TO replication_publisher;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE replication.workers TO replication_consumer;
GRANT SELECT ON TABLE replication.workers TO replication_monitor;
GRANT SELECT ON TABLE replication.status TO replication_publisher;
GRANT SELECT ON TABLE replication.status TO replication_consumer;
GRANT SELECT ON TABLE replication.status TO replication_monitor;
