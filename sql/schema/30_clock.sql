-- Row versions: a hybrid logical clock per row (see replication_pipeline/domain/version.py).
--
--   version = max(clock in µs, predecessor's µs + 1) << 10 | contour id
--
-- clock_timestamp() and not now(): of two transactions, the one that writes the row last must get
-- the greater version, however early it began. The predecessor rule keeps versions of a row
-- ascending when the clock jumps back. The contour's id is compiled in, so that stamping a row
-- reads no table. `clock_offset` shifts the clock; only tests of skew use it.

create or replace function replication.install_clock(clock_offset interval default interval '0')
returns void language plpgsql set search_path = pg_catalog, pg_temp as $install$
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
end $install$;

do $$ begin perform replication.install_clock(); end $$;
