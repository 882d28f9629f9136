-- Heartbeats: the registry of contours, what their applied positions were, and what may be forgotten.
-- The rules are in replication_pipeline/domain/contours.py and collection.py.

-- This contour's own beats, and the round that is being taken (replication_pipeline/domain/heartbeat.py):
--   none       round_at is null
--   begun      round_at, round_applied and round_horizon are set
--   settled    round_mark too: all transactions below the horizon have ended, and whatever they queued
--              has an id up to the mark
-- One row; whoever changes it finds it due and unlocked.
create table if not exists replication.heartbeat (
  only_row      boolean primary key default true check (only_row),
  sequence      bigint not null default 0,
  sent_at       timestamptz,
  round_at      timestamptz,
  round_applied jsonb,
  round_horizon xid8,
  round_mark    bigint,
  check ((round_at is null) = (round_applied is null) and (round_at is null) = (round_horizon is null)),
  check (round_mark is null or round_at is not null)
) with (fillfactor = 50);
insert into replication.heartbeat default values on conflict do nothing;

-- How far the heartbeat topic is read; moved in the transaction that brings the registry up to that point.
-- `trouble` is about this database only: another one beats under its name or id (clash), or has sent beats
-- of this very database, which is a copy then, or was restored (gone_back).
create table if not exists replication.heartbeat_log (
  only_row    boolean primary key default true check (only_row),
  next_offset bigint,
  log_time    timestamptz,
  log_seconds double precision not null default 0,
  trouble     text check (trouble in ('clash', 'gone_back'))
) with (fillfactor = 50);
insert into replication.heartbeat_log default values on conflict do nothing;

-- Times are the broker's; `last_heard` is in seconds of the log's time; `ahead` are the newest
-- measurements of its clock against the broker's, in seconds, and `clock_ahead` the best of them.
create table if not exists replication.contours (
  name        text primary key,
  id          integer not null check (id between 1 and 1023),
  incarnation uuid not null,
  state       text not null check (state in ('active', 'fenced', 'forgotten')),
  sequence    bigint not null,
  last_beat   timestamptz not null,
  last_heard  double precision not null,
  fenced_at   timestamptz,
  ahead       double precision[] not null default '{}',
  clock_ahead double precision
) with (fillfactor = 50);

-- Rounds as they came. `log_offset` is their place on the heartbeat topic.
create table if not exists replication.contour_rounds (
  contour    text not null,
  log_offset bigint not null,
  beat_at    timestamptz not null,
  taken_at   timestamptz not null,
  applied    jsonb not null,
  ends       jsonb not null,
  primary key (contour, log_offset)
);

-- The newest version of a delete that was forgotten, by table. An older write of a key that has neither
-- row nor tombstone may be one that the delete had replaced: it is parked, never applied.
create table if not exists replication.tombstone_floors (
  table_name text primary key,
  version    bigint not null check (version > 0)
);
