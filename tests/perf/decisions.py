"""Time of one decision at 1, 100 and 5,000 nodes of 8 GPUs, by the simulation engine."""

from __future__ import annotations

import json
import statistics
import time

from mlsched.model.events import Instant, JobSubmitted
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


if __name__ == "__main__":
    for count in (1, 100, 5_000):
        print(json.dumps({"nodes": count, **decisions_ms(count)}), flush=True)
    print(json.dumps({"nodes": 1, "waiting": 10_000, **decisions_ms(1, 10_000)}), flush=True)
