"""``make bench``: run the measurements and print one JSON object a line.

Each file beside this one measures one subject, in a home of its own, and compares within the run
where there is something to compare with. Figures go into docs/performance.md by hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHES = (
    *("decisions", "service", "supervisor_bench", "feed_bench", "engines", "crashes"),
    *("clusters", "soak"),
)


def main(names: list[str]) -> int:
    """Run the named benches, all when none is named; the exit code of the worst."""
    worst = 0
    for name in names or BENCHES:
        path = Path(__file__).with_name(f"{name}.py")
        print(json.dumps({"bench": name}), flush=True)
        worst = max(worst, subprocess.run([sys.executable, str(path)], check=False).returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
