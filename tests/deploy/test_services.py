"""The test services themselves: a Redis that is real and durable."""

import redis


def test_redis_of_tests_keeps_what_it_accepted(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        kept = {name: client.config_get(name)[name] for name in ("appendonly", "appendfsync", "maxmemory-policy")}
        assert kept == {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}


def test_each_test_starts_on_an_empty_redis(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_nothing_is_left_from_the_test_before(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
