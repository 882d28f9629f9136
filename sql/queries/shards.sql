-- Shards taken for more than a claim: nothing of them is published until commit.

-- name: lock
-- FOR UPDATE: waits for whoever publishes from these, so that all that was sent before is committed. In the order of
-- shards; a publisher gives its own free within a second, and while Kafka is away within kafka.delivery_timeout.
select from (select from replication.publish_shards where shard = any(%(shards)s::smallint[])
              order by shard for update) s
