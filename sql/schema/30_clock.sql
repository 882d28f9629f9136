-- Row versions: a hybrid logical clock per row (see replication_pipeline/domain/version.py).
--
--   version = max(clock in µs, predecessor's µs + 1) << 10 | contour id
--
-- clock_timestamp() and not now(): of two transactions, the one that writes the row last must get
-- the greater version, however early it began. The predecessor rule keeps versions of a row
-- ascending when the clock jumps back. The contour's id is compiled in, so that stamping a row
-- reads no table. `clock_offset` shifts the clock; only tests of skew use it.
--
-- An inserted row gets its version from the column's default: a trigger costs four times as much a row,
-- and its WHEN clause, which PostgreSQL parses anew in every statement, as much as the whole row. What
-- an application gave instead is put right by the capture trigger, see 42_capture_functions.sql. An updated row
-- needs a trigger.

-- The clock as an SQL expression in µs, every name with its schema: it runs with the search_path of
-- whoever writes. Double precision holds microseconds exactly until 2255 and
-- is several times faster than numeric.
drop function if exists replication.clock_expression(interval);
create or replace function replication.clock_expression(
  clock_offset interval, source text default 'clock_timestamp')
returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format('(pg_catalog.date_part(''epoch'', pg_catalog.%I()) operator(pg_catalog.*) 1000000)'
                '::pg_catalog.int8', source)
         || case when clock_offset = '0' then ''
                 else format(' operator(pg_catalog.+) %s', (extract(epoch from clock_offset) * 1000000)::bigint) end
$$;

create or replace function replication.install_clock(clock_offset interval default interval '0')
returns void language plpgsql set search_path = pg_catalog, pg_temp as $install$
declare
  contour_id constant integer := (select id from replication.contour);
  clock constant text := replication.clock_expression(clock_offset);
  registered regclass;
begin
  execute format($sql$
    create or replace function replication.next_version(predecessor bigint)
    returns bigint language sql volatile parallel safe as
    $body$ select (greatest(%s, (predecessor operator(pg_catalog.>>) 10) operator(pg_catalog.+) 1)
                     operator(pg_catalog.<<) 10) operator(pg_catalog.|) %s::pg_catalog.int8 $body$ $sql$, clock, contour_id);

  -- Clock of this contour in µs.
  execute format('create or replace function replication.clock() returns bigint language sql volatile '
                 'parallel safe as $body$ select %s $body$', clock);
  -- Versions made by the running statement are not lower; a second is for a clock that is set back.
  execute format('create or replace function replication.earliest_version() returns bigint language sql '
                 'volatile parallel safe as $body$ select (%s operator(pg_catalog.-) 1000000) '
                 'operator(pg_catalog.<<) 10 $body$',
                 replication.clock_expression(clock_offset, 'statement_timestamp'));

  -- BEFORE UPDATE, of every replicated table. Runs as the writing role, which needs no right for it:
  -- nothing but pg_catalog is called. The name of the trigger sorts last, so that it sees the row as
  -- it will be stored.
  --
  -- An UPDATE that changes nothing keeps its version: it is no event, and must not win over a real
  -- change made elsewhere. *= compares images, so it needs no equality operator (json, point).
  execute format($sql$
    create or replace function replication.stamp_update() returns trigger language plpgsql as $body$
    begin
      new.replication_version := old.replication_version;
      if not (new operator(pg_catalog.*=) old) then
        new.replication_version := (greatest(%s, (old.replication_version operator(pg_catalog.>>) 10)
          operator(pg_catalog.+) 1) operator(pg_catalog.<<) 10) operator(pg_catalog.|) %s::pg_catalog.int8;
      end if;
      return new;
    end $body$ $sql$, clock, contour_id);

  -- For tables with columns that don't count: generated ones, which a BEFORE trigger does not see
  -- computed yet, and those that are not captured. The argument is a JSON object of them, all null.
  execute format($sql$
    create or replace function replication.stamp_update_of_captured() returns trigger language plpgsql
    as $body$
    begin
      new.replication_version := old.replication_version;
      if not (pg_catalog.jsonb_populate_record(new, tg_argv[0]::pg_catalog.jsonb)
              operator(pg_catalog.*=)
              pg_catalog.jsonb_populate_record(old, tg_argv[0]::pg_catalog.jsonb)) then
        new.replication_version := (greatest(%s, (old.replication_version operator(pg_catalog.>>) 10)
          operator(pg_catalog.+) 1) operator(pg_catalog.<<) 10) operator(pg_catalog.|) %s::pg_catalog.int8;
      end if;
      return new;
    end $body$ $sql$, clock, contour_id);

  for registered in
    select relation from replication.replicated_tables t join pg_class c on c.oid = t.relation
     where pg_has_role(current_user, c.relowner, 'usage')  -- else the end of 50_setup_table.sql says so
  loop
    perform replication.put_stamps(registered, clock_offset);
  end loop;
end $install$;

-- The default and the BEFORE trigger of one table. PostgreSQL copies the trigger of a partitioned table
-- to every partition, later ones as well.
create or replace function replication.put_stamps(relation regclass, clock_offset interval default '0')
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  not_captured constant jsonb := (
    select jsonb_object_agg(a.attname, null)
      from pg_attribute a
      join pg_type y on y.oid = a.atttypid
      join replication.replicated_tables t on t.relation = a.attrelid
     where a.attrelid = put_stamps.relation and a.attnum > 0 and not a.attisdropped
       and a.attname <> 'replication_version' and y.typtype <> 'd'  -- a domain may refuse null
       and not exists (select from replication.data_columns(t) c where c.attnum = a.attnum));
begin
  -- Nullable: a program that knows all columns of a table may well insert a null here.
  execute format('alter table %s alter column replication_version drop not null, '
                 'alter column replication_version set default (((%s) operator(pg_catalog.<<) 10) operator(pg_catalog.|) %s::pg_catalog.int8)',
                 relation, replication.clock_expression(clock_offset), (select id from replication.contour));
  execute format('create or replace trigger zz_replication_stamp_update before update on %s '
                 'for each row execute function replication.%s', relation,
                 case when not_captured is null then 'stamp_update()'
                      else format('stamp_update_of_captured(%L)', not_captured) end);
end $$;
