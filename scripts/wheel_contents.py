"""Checks that the one wheel in a directory holds the three packages and nothing else at its top level.

python -m scripts.wheel_contents dist
"""

import sys
import zipfile
from pathlib import Path

EXPECTED = {"landscape", "optimizers", "analysis"}


def main(directory: str) -> int:
    (wheel,) = Path(directory).glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    packages = {top for top in tops if not top.endswith(".dist-info")}
    template = "landscape/templates/report.html.j2" in names
    print(f"{wheel.name}: {len(names)} files in {', '.join(sorted(tops))}")
    if packages != EXPECTED or not template:
        print(f"expected {sorted(EXPECTED)} and the report's template", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
