-- Setting a table up for replication, and taking it out again. Both are idempotent.

-- Captures every change of `relation` from now on, and lets the consumer role write it.
--   full_before: events of UPDATE and DELETE carry the whole old row, not only its key.
create or replace function replication.setup_table_for_replication(
  relation regclass, full_before boolean default false)
returns void language plpgsql
set search_path = pg_catalog, pg_temp set client_min_messages = warning as $$
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

-- Says why a table can't be replicated, and what to do about it.
create or replace function replication.refuse_unfit_table(relation regclass)
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
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

create or replace function replication.refuse_truncate()
returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using errcode = 'feature_not_supported', table = tg_table_name,
    message = format('table %I.%I is replicated, and TRUNCATE can''t be', tg_table_schema, tg_table_name),
    hint = 'DELETE FROM the table, or remove_table_from_replication() first.';
end $$;

-- Stops capturing. Queued events stay and are published. The version column stays unless asked for:
-- dropping it forgets which write was the last one.
create or replace function replication.remove_table_from_replication(
  relation regclass, drop_version_column boolean default false)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
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

-- After an upgrade of these files every capture function is compiled again.
do $$ begin perform replication.refresh_capture(t) from replication.replicated_tables t; end $$;
