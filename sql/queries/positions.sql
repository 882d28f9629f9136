-- Where the contour stands in Kafka's topics, beside what each batch does (apply.sql).

-- name: learn_topics
-- The ids under which topics are read here; those never seen are learned. Locks: the rows, in order.
-- (The update that changes nothing makes a row that somebody else has just made come back as well.)
insert into replication.consumer_topics as t (topic, topic_id)
select topic, topic_id from unnest(%(topics)s::text[], %(ids)s::text[]) as k(topic, topic_id)
 order by topic
on conflict (topic) do update set topic_id = t.topic_id
returning topic, topic_id

-- name: known_topics
select topic, topic_id from replication.consumer_topics where topic = any(%(topics)s::text[])

-- name: positions
select topic, partition, next_offset from replication.consumer_offsets
 where topic = any(%(topics)s::text[])

-- name: lock_positions
-- Locks: the topic's offsets, against appliers; whoever waited finds another offset than it left, and
-- reads from the new one.
select partition, next_offset from replication.consumer_offsets
 where topic = %(topic)s order by partition for update

-- name: accept_topic
insert into replication.consumer_topics (topic, topic_id) values (%(topic)s, %(topic_id)s)
on conflict (topic) do update set topic_id = excluded.topic_id, learned_at = clock_timestamp()

-- name: forget_positions
-- Of a topic that is another one now: its partitions may be fewer.
delete from replication.consumer_offsets where topic = %(topic)s

-- name: move_parked_aside
-- Events parked from the former topic keep their place free for the new one's.
update replication.parked_events set kafka_offset = -id where topic = %(topic)s and kafka_offset >= 0

-- name: set_position
insert into replication.consumer_offsets (topic, partition, next_offset, high_watermark)
values (%(topic)s, %(partition)s, %(next_offset)s, %(end)s)
on conflict (topic, partition) do update
   set next_offset = excluded.next_offset, high_watermark = excluded.high_watermark,
       updated_at = clock_timestamp()
