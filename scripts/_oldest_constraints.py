"""Print pip constraints that hold every dependency of the project at the lower bound that pyproject.toml gives."""

import re
import tomllib
from pathlib import Path

BOUND = re.compile(r"([A-Za-z0-9_.-]+)>=([0-9.]+)")


def main() -> None:
    """Run as a script."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for dependency in project["dependencies"]:
        bound = BOUND.match(dependency)
        if bound is None:
            raise SystemExit(f"{dependency} has no lower bound")
        print(f"{bound[1]}=={bound[2]}")


if __name__ == "__main__":
    main()
