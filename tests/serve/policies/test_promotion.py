"""Between verifying a candidate and making it live: what else happens meanwhile, on a real Redis."""

from pathlib import Path
from threading import Thread

import httpx

from feedback.connection import connect
from tests.fake_engine import FakeEngine
from tests.serve.publish import Publisher
from tests.serve.replicas.test_swap import live_now, load_of, promote, wait_loaded
from tests.services import Gateway, wait_until

# Longer than the swap's loop waits between two looks, shorter than what Redis's clients wait for.
WRITES_HELD_MS = 1600


def test_a_candidate_that_is_loaded_only_to_be_promoted_stays_loaded(
    api: httpx.Client, gateway: Gateway, publisher: Publisher, two_adapters: tuple[Path, Path], fake: FakeEngine
) -> None:
    oldest = publisher.publish(two_adapters[0])
    wait_loaded(api, oldest)
    *_, newest = (publisher.publish(two_adapters[0]) for _ in range(6))
    wait_loaded(api, newest)
    wait_until(lambda: load_of(api, oldest) == {}, within_s=10, what="there is no room for the oldest")
    wait_until(lambda: oldest in fake.unloads, within_s=10, what="the engine has let go of it")
    fake.unloads.clear()
    redis, answers = connect(gateway.redis_url), list[httpx.Response]()
    redis.client_pause(WRITES_HELD_MS, all=False)
    promoting = Thread(target=lambda: answers.append(promote(api, oldest)))
    promoting.start()
    promoting.join()
    assert answers[0].status_code == 200, answers[0].text
    assert live_now(api) == oldest
    assert oldest not in fake.unloads
