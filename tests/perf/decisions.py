"""Time of one decision at 1 to 5,000 nodes of 8 GPUs, of one job and of thousands at once."""

from __future__ import annotations

import json
import statistics
import time

from mlsched.model.events import AttemptEnded, Instant, JobSubmitted, NodeObserved
from mlsched.model.jobs import EndCause, Outcome
from mlsched.runtime.controller import Controller
from mlsched.sim.engines import Arrival, Engine
from mlsched.testing.builders import job, node, spec


def decisions_ms(nodes: int, waiting: int = 0) -> dict[str, float]:
    """Median and worst time of a step that accepts one job, half of the cluster in use."""
    engine = Engine([node(f"n{i:05d}", 8) for i in range(nodes)])
    for index in range(nodes // 2):
        engine.submit(Arrival(0, f"busy-{index}", spec(8), 10_000_000))
    for index in range(waiting):
        engine.submit(Arrival(0, f"wait-{index}", spec(8, nodes=nodes), 1))
    engine.run(until_ms=1_000)
    times = []
    for index in range(50):
        event = JobSubmitted(job(f"x{index}", 1_000_000 + index, 4))
        start = time.perf_counter()
        engine.controller.step([event], Instant(2_000, 2_000))
        times.append((time.perf_counter() - start) * 1000)
    return {"median_ms": round(statistics.median(times), 3), "max_ms": round(max(times), 3)}


def queue_ms(nodes: int, jobs: int, shapes: int) -> dict[str, float]:
    """Time a job of one step that accepts and places them all; then of steps that each end one.

    Each node has 8 GPUs and 64 CPUs. While jobs end one by one 10,000 others, of four shapes of
    which none finds room, wait.
    """
    controller = Controller()
    now = Instant(0, 0)
    controller.step([NodeObserved(node(f"n{i:05d}", 8, cpus=64)) for i in range(nodes)], now)
    kinds = ((1, 4), (2, 4), (1, 8), (0, 2))[:shapes]
    events = [JobSubmitted(job(f"j{i}", i + 1, *kinds[i % shapes])) for i in range(jobs)]
    start = time.perf_counter()
    controller.step(events, now)
    place_ms = (time.perf_counter() - start) * 1000 / jobs
    placed = list(controller.ledger.held)
    full = [JobSubmitted(job(f"f{i}", jobs + i + 1, 8, 1)) for i in range(nodes)]
    controller.step(full, now)
    larger = ((8, 64), (8, 32), (8, 16), (8, 8))
    waiting = [JobSubmitted(job(f"w{i}", 10**6 + i, *larger[i % 4])) for i in range(10_000)]
    controller.step(waiting, now)
    times = []
    for job_id in placed[:40]:
        event = AttemptEnded(job_id, 1, Outcome(EndCause.EXITED, 0))
        start = time.perf_counter()
        controller.step([event], now)
        times.append((time.perf_counter() - start) * 1000)
    return {
        "placed": len(placed),
        "place_ms_a_job": round(place_ms, 4),
        "waiting": len(controller.reasons),
        "end_median_ms": round(statistics.median(times), 3),
        "end_max_ms": round(max(times), 3),
    }


if __name__ == "__main__":
    for count in (1, 100, 5_000):
        print(json.dumps({"nodes": count, **decisions_ms(count)}), flush=True)
    print(json.dumps({"nodes": 1, "waiting": 10_000, **decisions_ms(1, 10_000)}), flush=True)
    for count in (1_000, 5_000):
        for shapes in (1, 4):
            case = {"nodes": count, "jobs": 4_000, "shapes": shapes}
            print(json.dumps({**case, **queue_ms(count, 4_000, shapes)}), flush=True)
