-- Capture: one AFTER STATEMENT trigger per operation writes a whole statement's changes at once.
--
-- Invariants
--   * In the user's transaction: an event exists exactly when its change is committed.
--   * Values travel as text that PostgreSQL made under pinned settings; forms as in docs/events.md.
--   * A key never lives at or below its tombstone: an inserted row whose version is not above the
--     tombstone of its key (a skewed clock, or a delete that committed while the insert waited for
--     it) is lifted above it, row and event alike, in one statement.
--   * A column that was added, dropped, renamed or retyped is seen by the next statement.
--   * Nothing here can fail because of a value.
--
-- The statements are generated for each table by capture_statement() and compiled into one function
-- per table, replication.capture_<table_id>(). When the table's columns have changed since, the same
-- generator makes the statement on the fly until refresh_capture() compiles it again.

-- The shape of a table as a short text; changes with every change of a column.
--
-- Declared IMMUTABLE on purpose, although it reads the catalog: PostgreSQL then computes it while
-- planning and keeps it in the cached plan, and throws that plan away when the table is altered.
-- The check on every statement therefore costs nothing. It holds only in a query that also reads
-- the table or one of its transition tables, which is what ties the plan to the table.
create or replace function replication.table_fingerprint(relation regclass)
returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  select md5(string_agg(concat_ws(':', c.relnamespace, c.relname, a.attnum, a.attname, a.atttypid,
                                  a.atttypmod, a.attgenerated), ',' order by a.attnum))
    from pg_class c join pg_attribute a on a.attrelid = c.oid
   where c.oid = relation and a.attnum > 0 and not a.attisdropped
$$;

create or replace function replication.base_type(type_id oid)
returns oid language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive chain as (
    select oid, typtype, typbasetype from pg_type where oid = type_id
    union all
    select t.oid, t.typtype, t.typbasetype from pg_type t join chain on t.oid = chain.typbasetype
     where chain.typtype = 'd'
  )
  select oid from chain where typtype <> 'd'
$$;

-- SQL that turns one column into its wire form: a JSON scalar where that is lossless, an array for
-- plain one-dimensional arrays, and PostgreSQL's text in a string for all else.
create or replace function replication.wire_expression(reference text, type_id oid)
returns text language plpgsql stable set search_path = pg_catalog, pg_temp as $$
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
end $$;

-- The columns that travel: all but the version and generated ones.
create or replace function replication.data_columns(relation regclass)
returns table (attnum smallint, attname name, type_id oid)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select attnum, attname, atttypid
    from pg_attribute
   where attrelid = relation and attnum > 0 and not attisdropped and attgenerated = ''
     and attname <> 'replication_version'
   order by attnum
$$;

-- `n."id" as "id", n."balance"::text as "balance", …`
create or replace function replication.projection(relation regclass, alias text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format('%s as %I', replication.wire_expression(format('%s.%I', alias, attname), type_id),
                           attname), ', ' order by attnum)
    from replication.data_columns(relation)
$$;

-- SQL of the canonical key: a JSON object of the key columns, in key order, no white space.
create or replace function replication.key_expression(relation regclass, key_columns text[], alias text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
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

-- The INSERT that queues the changes of one statement. $1 = first 24 characters of the statement's
-- event ids, $2 = transaction id. `lifting`: the rare form that compares every key with its
-- tombstone and raises versions; see the head of this file. It updates the replicated table itself, so
-- the caller switches triggers off around it (session_replication_role, granted to this role).
--
-- The table's columns may be called anything: they appear only behind n., o. or t., and the names of
-- the statement's own begin with two underscores.
create or replace function replication.capture_statement(
  t replication.replicated_tables, operation text, lifting boolean)
returns text language plpgsql stable set search_path = pg_catalog, pg_temp as $$
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
end $$;

-- Locks the tombstones of a statement's new keys, making them where there are none. Version 1 is older
-- than any write: such a row buries nothing.
create or replace function replication.lock_statement(t replication.replicated_tables, operation text)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select format($sql$
insert into replication.replication_tombstones as s (table_name, record_key, version)
select %L, %s, 1 from new_rows n %s order by 2
on conflict on constraint replication_tombstones_pkey do update set version = s.version$sql$,
    t.table_name, replication.key_expression(t.relation, t.key_columns, 'n'),
    case when operation = 'UPDATE' then format('where not exists (select from old_rows o where %s)',
      (select string_agg(format('n.%1$I = o.%1$I', k), ' and ') from unnest(t.key_columns) k))
    else '' end)
$$;

-- The common end of a capture statement: __events into the queue, deleted keys into the tombstones.
create or replace function replication.queue_insert(table_name text, buries boolean)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
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
$$;

-- Compiles the capture function of one table.
create or replace function replication.refresh_capture(t replication.replicated_tables)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $refresh$
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
end $refresh$;

create or replace function replication.with_variables(statement text)
returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  select replace(replace(statement, '($1 ||', '(seed ||'), ', $2' || E'\n', ', txid' || E'\n')
$$;
