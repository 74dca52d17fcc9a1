"""Test the oldest and the newest versions that pyproject.toml allows, for docs/compatibility.md.

    python tools/check_compatibility.py                    both ends, one after the other
    python tools/check_compatibility.py --ends newest --output output/compatibility.json
    python tools/check_compatibility.py --ends newest --python python3.12 python3.13

For each end, of this Python or of those given, an environment is made, filled by pip (torch brings
about 5 GB, and as much is free again afterwards), and `tests/compatibility.txt` is run in it: a few
minutes of tests that touch every adapter. `oldest` is every lower bound exactly, what has none in
its newest version; `newest` is the newest of everything. It prints a table, and ends with status 1
where a test failed or pip found no such versions.
"""

import argparse
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).parent))  # for the modules next to it

from compatibility.ends import End, table
from compatibility.environment import try_end


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns 0 where all tests passed."""
    args = _parser().parse_args(argv)
    folder = Path(args.work or tempfile.mkdtemp(prefix="compatibility_"))
    outcomes = []
    for number, (python, end) in enumerate(itertools.product(args.python, args.ends)):
        place = folder / f"{end}_{number}"
        outcomes.append(try_end(end, place, python))
        print(f"{end}: {outcomes[-1].summary}", *outcomes[-1].failed, sep="\n  ", flush=True)
        if not args.keep:
            shutil.rmtree(place, ignore_errors=True)
    print(f"\n{table(outcomes)}")
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([outcome.as_json() for outcome in outcomes], indent=1)
        args.output.write_text(text + "\n")
    return 0 if all(outcome.is_well for outcome in outcomes) else 1


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ends", nargs="+", choices=get_args(End), default=get_args(End))
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="Pythons to try")
    parser.add_argument("--work", type=Path, help="folder of the environments (default: temporary)")
    parser.add_argument("--keep", action="store_true", help="keep the environments")
    parser.add_argument("--output", type=Path, help="JSON file of all results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
