"""Licences of all packages that the requirements bring, as a page: docs/licences.md.

    python -m eval licences --output docs/licences.md

Read from the metadata of the packages installed here, requirements of requirements included.
"""

import argparse
import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from leap.arguments import check_writable
from leap.errors import NothingQualifiesError, UsageError
from leap.files import Written, atomic_write

# What this project may be run and passed on with. GPL and AGPL are not among them, nor limits of use.
ACCEPTED = re.compile(
    r"apache|bsd|mit|isc|psf|python software|zlib|mpl|mozilla|unlicense|0bsd|cc0|hpnd|lgpl|lesser general",
    re.IGNORECASE,
)
REFUSED = re.compile(r"(?<!l)gpl|affero|non-?commercial|proprietary|agpl", re.IGNORECASE)
NO_LICENCE = "none stated"


def required(files: list[Path]) -> list[Requirement]:
    """The requirements that are named in requirements files, those that they include not followed."""
    found = []
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            stated = line.partition("#")[0].strip()
            if stated and not stated.startswith("-"):
                found.append(Requirement(stated))
    return found


def closure(requirements: list[Requirement]) -> dict[str, Distribution]:
    """All installed packages that these bring, by name.

    Raises:
        UsageError: one that is named is not installed.
    """
    found: dict[str, Distribution] = {}
    seen = set()
    waiting = [(requirement, True) for requirement in requirements]
    while waiting:
        requirement, named = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, *sorted(requirement.extras)) in seen:
            continue
        seen.add((name, *sorted(requirement.extras)))
        try:
            found[name] = distribution(requirement.name)
        except PackageNotFoundError as error:
            if named:
                raise UsageError(f"licences: {name} is not installed: pip install it") from error
            continue  # of another platform, say
        for line in found[name].requires or []:
            inner = Requirement(line)
            extras = ("", *requirement.extras)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append((inner, False))
    return dict(sorted(found.items()))


def licence(package: Distribution) -> str:
    """What a package's metadata say of its licence, in a few words."""
    metadata = package.metadata
    stated = metadata.get("License-Expression")
    classifiers = [
        line.rpartition("::")[2].strip()
        for line in metadata.get_all("Classifier") or []
        if line.startswith("License ::") and "OSI Approved" != line.rpartition("::")[2].strip()
    ]
    free = (metadata.get("License") or "").strip()
    if not stated and free and len(free) < 60 and "\n" not in free:
        stated = free
    return stated or ", ".join(classifiers) or NO_LICENCE


def page(packages: dict[str, Distribution], named: set[str]) -> str:
    """The page."""
    rows = [
        f"| {'**' + name + '**' if name in named else name} | {package.version} | {licence(package)} |"
        for name, package in packages.items()
    ]
    return "\n".join(
        [
            "# Licences of the packages used",
            "",
            "Made by `python -m eval licences` from the metadata of the packages installed. Those in bold",
            "are named in the requirements, the others come with them. None is part of this repository or",
            "of the released model. The CUDA build of torch brings packages under a licence of NVIDIA's",
            "besides, which its CPU build does without.",
            "",
            "| package | version | licence |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def unaccepted(packages: dict[str, Distribution]) -> dict[str, str]:
    """Packages whose licence is not one that this project accepts, and what it is."""
    found = {name: licence(package) for name, package in packages.items()}
    return {
        name: words for name, words in found.items() if REFUSED.search(words) or not ACCEPTED.search(words)
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "--requirements",
        type=Path,
        nargs="+",
        default=[Path(f"requirements{kind}.txt") for kind in ("", "-runtime", "-dev")],
        help="requirements files (default: those of this tree)",
    )
    parser.add_argument(
        "--output",
        dest="page",
        type=Path,
        default=Path("docs/licences.md"),
        help="Markdown file to write (default: %(default)s)",
    )
    parser.set_defaults(output=None)


def run(args: argparse.Namespace) -> Written:
    """Run it as the command does.

    Raises:
        NothingQualifiesError: a package has a licence that is not accepted, or states none.
    """
    check_writable("--output", args.page)
    requirements = required(args.requirements)
    packages = closure(requirements)
    refused = unaccepted(packages)
    if refused:
        words = "; ".join(f"{name}: {licence}" for name, licence in refused.items())
        raise NothingQualifiesError(
            f"licences that are not accepted: {words}; do without, or add its licence"
        )
    content = page(packages, {canonicalize_name(requirement.name) for requirement in requirements})
    with atomic_write(args.page) as file:
        file.write(content.encode())
    return Written(f"{len(packages)} packages, all of accepted licences; written: {args.page}")
