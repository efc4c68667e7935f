"""Builds the fake NVML library, and writes a state file for it to answer from.

python tests/fake_nvml/build.py OUTDIR                         the library
python tests/fake_nvml/build.py OUTDIR --without SYMBOL ...    as an older driver
python tests/fake_nvml/build.py OUTDIR --exports FILE          as a driver with just these names
python tests/fake_nvml/build.py --state FILE --gpus 8          a machine with 8 H100s

Then run anything with LD_LIBRARY_PATH=OUTDIR FAKE_NVML=FILE. Needs gcc and the standard library.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_nvml.c")
LIBRARY = "libnvidia-ml.so.1"
_DEFINED = re.compile(r"^(?:API [^(]*?|(?:TEXT|NUMBER|PROCESS)_CALL\()(nvml\w+)[(,]", re.MULTILINE)
EVENT_TYPES = 0xFF8F
NVLINKS = 18


def implemented() -> set[str]:
    """Functions that the source answers from the state file."""
    return set(_DEFINED.findall(SOURCE.read_text(encoding="utf-8")))


def build(out_dir: Path, without: Iterable[str] = (), exports: Iterable[str] | None = None) -> Path:
    """Compile the library.

    Args:
        out_dir: Where it goes.
        without: Functions that it does not have.
        exports: Exactly the functions that it has; those that the source lacks are not supported.

    Returns:
        The path of the library.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    names = implemented() if exports is None else set(exports)
    names -= set(without)
    stubs = out_dir / "stubs.c"
    missing = sorted(names - implemented())
    stubs.write_text("".join(f"int {name}(void) {{ return 3; }}\n" for name in missing) or "\n")
    script = out_dir / "exports.map"
    exported = "".join(f" {name};" for name in sorted(names))
    script.write_text(f"{{ global:{exported} local: *; }};\n")
    library = out_dir / LIBRARY
    command = ["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
    command += ["-pthread", f"-Wl,-soname,{LIBRARY}", f"-Wl,--version-script={script}"]
    subprocess.run([*command, "-o", library, SOURCE, stubs], check=True)
    return library


def uuid_of(index: int) -> str:
    """UUID of a GPU of the default state."""
    return f"GPU-{index:08x}-1111-2222-3333-444455556666"


def bus_of(index: int) -> str:
    """PCI bus id of a GPU of the default state."""
    return f"00000000:{0x1B + 0x10 * index:02X}:00.0"


def gpu_line(index: int, **changes: object) -> str:
    """One H100 as a statement of the state file; a change to None takes a key out."""
    keys: dict[str, object] = {
        "uuid": uuid_of(index),
        "name": "NVIDIA_H100_80GB_HBM3",
        "serial": f"165{index:010d}",
        "bus": bus_of(index),
        "minor": index,
        "arch": 9,
        "cc": "9/0",
        "part": "692-2G520-0200-000",
        "module": index + 1,
        "vbios": "96.00.99.00.01",
        "gsp": "580.105.08",
        "addressing": 1,
        "mem": 81559,
        "reserved": 480,
        "used": 0,
        "util": "0/0",
        "temp": 29 + index,
        "memtemp": 37,
        "margin": 58,
        "power": 68920,
        "limit": 700000,
        "clocks": 1,
        "ecc": "1/1",
        "ecc_errors": "0/0/0/0",
        "sram": 0,
        "remap": "0/0/0/0",
        "recovery": 0,
        "links": NVLINKS,
        "gen": 5,
        "gen_max": 5,
        "width": 16,
        "width_max": 16,
        "replays": 0,
        "mig": "0/0",
        "fabric": "3/0/1",
        "event_types": hex(EVENT_TYPES),
    }
    keys.update({key: str(value).replace(" ", "_") for key, value in changes.items()})
    words = (f"{key}={value}" for key, value in keys.items() if changes.get(key, "") is not None)
    return f"gpu {index} {' '.join(words)}"


def mig_line(index: int, slot: int, **changes: object) -> str:
    """One MIG instance of a seventh of an H100."""
    keys: dict[str, object] = {
        "uuid": f"MIG-{index:08x}-{slot:04x}-2222-3333-444455556666",
        "name": "NVIDIA_H100_80GB_HBM3_MIG_1g.10gb",
        "gi": 7 + slot,
        "ci": 0,
        "mem": 9984,
        "used": 15,
        "sms": 16,
    }
    keys.update(changes)
    return f"mig {index} {slot} " + " ".join(f"{key}={value}" for key, value in keys.items())


def system_line(driver: str = "580.105.08", **changes: object) -> str:
    """Versions of the driver."""
    keys: dict[str, object] = {"driver": driver, "nvml": f"13.{driver}", "cuda": 13000, **changes}
    return "system " + " ".join(f"{key}={value}" for key, value in keys.items())


def machine(gpus: int = 8) -> list[str]:
    """A machine with H100s behind NVSwitches, as lines of a state file."""
    lines = [system_line(), *(gpu_line(index) for index in range(gpus))]
    for index in range(gpus):
        lines += [f"nvlink {index} {n} 1 2 00000000:05:00.0" for n in range(NVLINKS)]
        lines += [f"topo {index} {other} {_level(index, other)}" for other in range(index)]
        for other in range(index):
            lines += [f"p2p {index} {other} {kind} 0" for kind in range(3)]
    return lines


def _level(first: int, second: int) -> int:
    """Four GPUs a socket: the node's level within, the system's across."""
    return 40 if first // 4 == second // 4 else 50


def write_state(path: Path, lines: Iterable[str]) -> Path:
    """Replace a state file in one step, so that no call sees half of it."""
    new = path.with_suffix(".new")
    new.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return new.replace(path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out_dir", nargs="?", type=Path)
    parser.add_argument("--without", nargs="*", default=[], metavar="SYMBOL")
    parser.add_argument("--exports", type=Path, metavar="FILE")
    parser.add_argument("--state", type=Path, metavar="FILE")
    parser.add_argument("--gpus", type=int, default=8)
    args = parser.parse_args()
    if args.out_dir:
        exports = args.exports.read_text().split() if args.exports else None
        print(build(args.out_dir, args.without, exports))
    if args.state:
        print(write_state(args.state, machine(args.gpus)))


if __name__ == "__main__":
    main()
