"""A stream of texts: who waits how long, by a clock that the test moves."""

from typing import Any

import pytest

from eval.speed import peer_stream
from eval.speed.peer_runtimes import EXITS, FULL_DEPTH
from eval.speed.peer_stream import evaluate_stream, mixed_stream, poisson_arrivals, saturate, serve


class Clock:
    """Seconds that pass only when somebody works or sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.batches = 0.0, []
        monkeypatch.setattr(peer_stream.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(peer_stream.time, "sleep", self.pass_)

    def pass_(self, seconds: float) -> None:
        self.now += seconds

    def encode(self, texts: list[str]) -> None:
        """A second a batch and half a second a text."""
        self.batches.append(texts)
        self.now += 1 + len(texts) / 2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_what_waits_is_one_batch_and_its_wait_counts(clock: Clock) -> None:
    latencies = serve(clock.encode, ["a", "b", "c"], [1.0, 1.5, 2.0, 9.0])
    assert clock.batches == [["a"], ["b", "c"], ["a"]]
    # The first is done at 2.5; the two that came meanwhile at 4.5; the last at 10.5.
    assert latencies == pytest.approx([1500, 3000, 2500, 1500])


def test_a_batch_has_a_limit(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_stream, "MOST", 2)
    serve(clock.encode, ["a"], [0.0] * 5)
    assert [len(batch) for batch in clock.batches] == [2, 2, 1]


def test_clients_send_again_once_they_are_answered(clock: Clock) -> None:
    latencies, rate = saturate(clock.encode, ["a", "b", "c"], clients=2, seconds=5)
    assert clock.batches == [["a", "b"], ["c", "a"], ["b", "c"]]  # two seconds each
    assert (latencies, rate) == ([2000] * 6, 1.0)


def test_arrivals_and_texts_are_drawn_alike_every_time() -> None:
    moments = poisson_arrivals(rate=50, seconds=20, seed=3)
    assert moments == poisson_arrivals(rate=50, seconds=20, seed=3) == sorted(moments)
    assert (0 < moments[0], moments[-1] < 20) == (True, True)
    assert len(moments) == pytest.approx(1000, rel=0.15)
    stream = mixed_stream(["query"], ["passage"], count=1000, seed=0)
    assert stream.count("query") == pytest.approx(800, abs=50)


def test_a_row_for_every_setting_and_variant() -> None:
    calls: list[dict[str, Any]] = []

    def ask(what: str, **request: Any) -> dict[str, Any]:
        assert what == "stream"
        calls.append(request)
        rate = {} if "arrivals" in request else {"texts_per_s": 10.0 * request["clients"]}
        return {"latencies": [1.0, 2.0, 3.0], **rate}

    asks = {"sentence-transformers": ask, "leap-transformers": ask}
    rows = evaluate_stream(asks, ["a"], "sentence-transformers", 7.0, seed=0)
    keys = [
        ("sentence-transformers", FULL_DEPTH),
        ("leap-transformers", FULL_DEPTH),
        ("leap-transformers", EXITS),
    ]
    ways = (1, 4, 16, None)
    assert [(row["clients"], row["peer"], row["variant"]) for row in rows] == [
        (way, *key) for way in ways for key in keys
    ]
    assert [row["texts_per_s"] for row in rows[::3]] == [10, 40, 160, None]
    assert {row["rate"] for row in rows[-3:]} == {6.0}  # 0.6 of what the baseline does for one client
    assert rows[0]["p50_ms"] == 2
    fixed = [call["arrivals"] for call in calls if "arrivals" in call]
    assert fixed[0] == fixed[1] == fixed[2] != fixed[3]  # the same for all of a turn
