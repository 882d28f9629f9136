-- An upgrade beside applications, publishers and appliers: what they lock first is locked first here, so nobody waits
-- in a circle. Appliers begin with their offsets, or with parked events; writers with the replicated table, and go on
-- to the queue and the tombstones, which these files alter. Everything after this finds its locks free or waits for
-- a transaction that needs nothing of ours. ACCESS EXCLUSIVE, as the version's default is set anew; for the second
-- that the rest takes. Who can't have a lock in time gives up whole, and applications go on.
do $$
declare
  name text;
begin
  if to_regclass('replication.replicated_tables') is null then
    return;
  end if;
  if current_setting('lock_timeout') = '0' then
    perform set_config('lock_timeout', '10s', true);
  end if;
  foreach name in array array['replication.consumer_offsets', 'replication.parked_events'] loop
    if to_regclass(name) is not null then
      execute format('lock table %s in access exclusive mode', name);
    end if;
  end loop;
  for name in
    select c.oid::regclass
      from replication.replicated_tables r join pg_class c on c.oid = r.relation
     where pg_has_role(current_user, c.relowner, 'usage') order by c.oid
  loop
    execute format('lock table %s in access exclusive mode', name);
  end loop;
end $$;
