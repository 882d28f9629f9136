-- What the exporter can't read from counters that exist already: histograms, and what comparing tables has found.

-- Observations since the contour was installed. `counts` are those of each bucket, not cumulative; the bounds are in
-- replication_pipeline/domain/histograms.py, and the last bucket has none. `total` is the sum of all, in whole
-- µs: a sum of floats would depend on the order of adding, and a counter must never fall. Of a backlog of days it
-- outgrows a bigint.
-- Workers add what they have seen since their last heartbeat: whoever writes merges the rows that nobody else is
-- merging into one of its own (queries/metrics.sql). So nobody waits, and a metric of a table may have several rows,
-- whose sum counts. No index: there are few, and all are read.
create table if not exists replication.histograms (
  metric     text not null check (metric in ('publish_batch', 'apply_batch', 'publish_latency', 'end_to_end_lag')),
  table_name text not null default '',  -- of a batch: none
  counts     bigint[] not null check (cardinality(counts) = 16),
  total      numeric not null
);

-- What the last comparison of a whole table has found that came to a verdict (`compare`, the check `convergence`).
-- `differing` is a lower bound unless `complete`.
create table if not exists replication.comparisons (
  table_name  text primary key,
  compared_at timestamptz not null default clock_timestamp(),
  contours    text[] not null,
  row_count   bigint not null,
  differing   bigint not null,
  complete    boolean not null
);
