"""What is installed beside this interpreter, as a CycloneDX 1.6 bill of materials, or as a list of licences.

Usage: python deploy/sbom.py [--licences]

Needs nothing but Python, so that it says what is shipped and not what it takes to say so.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
# What installs packages is none of them.
INSTALLERS = {"pip", "setuptools", "wheel"}
# How packages without an expression name their licences in metadata, and what SPDX calls those.
SPDX = {
    "apache software license": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "bsd license": "BSD-3-Clause",
    "bsd": "BSD-3-Clause",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd 3-clause or apache-2.0": "BSD-3-Clause OR Apache-2.0",
    "3-clause bsd license": "BSD-3-Clause",
    "gnu lesser general public license v3 (lgplv3)": "LGPL-3.0-only",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mit": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}


def licence(package: Distribution) -> str:
    """SPDX's expression for it, or "" where its metadata says none that is known."""
    told = package.metadata
    if expression := told.get("License-Expression"):
        return str(expression)
    named = [
        line.rsplit("::", 1)[-1].strip() for line in told.get_all("Classifier") or [] if line.startswith("License ::")
    ]
    known = {SPDX[name.lower()] for name in [*named, (told.get("License") or "").strip()] if name.lower() in SPDX}
    return " AND ".join(sorted(known)) or _by_its_text(package)


def _by_its_text(package: Distribution) -> str:
    for file in package.files or []:
        if file.name.upper().startswith("LICENSE"):
            begins = " ".join(file.read_text(encoding="utf-8").split()[:8])
            return "Apache-2.0" if begins.startswith("Apache License Version 2.0") else ""
    return ""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, Distribution]:
    found = {canonical(package.metadata["Name"]): package for package in distributions()}
    return {name: found[name] for name in sorted(found) if name not in INSTALLERS | {"spend-governor"}}


def purl(name: str, package: Distribution) -> str:
    return f"pkg:pypi/{name}@{package.version}"


def component(name: str, package: Distribution) -> dict[str, Any]:
    told: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl(name, package),
        "name": name,
        "version": package.version,
        "purl": purl(name, package),
    }
    if summary := package.metadata.get("Summary"):
        told["description"] = summary
    if expression := licence(package):
        told["licenses"] = [{"expression": expression}]
    return told


def asked_for(package: Distribution, among: dict[str, Distribution]) -> Iterator[str]:
    """What a package depends on, of what is installed; what only its extras ask for is left out."""
    for requirement in package.requires or []:
        asked, _, condition = requirement.partition(";")
        name = re.match(r"[\w.-]+", asked)
        if name and "extra" not in condition and (other := canonical(name[0])) in among:
            yield purl(other, among[other])


def version() -> str:
    file = next(path for path in (ROOT.parent, ROOT) if (path / "config/__init__.py").exists()) / "config/__init__.py"
    found = re.search(r'^__version__ = "(.+)"', file.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, "config/__init__.py says the version"  # noqa: S101 - ours
    return found[1]


def bill() -> dict[str, Any]:
    among = installed()
    product = f"pkg:pypi/spend-governor@{version()}"
    needs = {purl(name, package): sorted(set(asked_for(package, among))) for name, package in among.items()}
    components = [component(name, package) for name, package in among.items()]
    # The same for the same packages, so that two builds can be compared.
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([product, sorted(needs)]))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": product,
                "name": "spend-governor",
                "version": version(),
                "purl": product,
                "licenses": [{"expression": "Apache-2.0"}],
            }
        },
        "components": components,
        "dependencies": [
            {"ref": product, "dependsOn": sorted(needs)},
            *({"ref": ref, "dependsOn": others} for ref, others in needs.items()),
        ],
    }


def main(*arguments: str) -> None:
    if arguments == ("--licences",):
        lines = [f"{name} {package.version}: {licence(package) or 'unknown'}" for name, package in installed().items()]
        sys.stdout.write("\n".join(lines) + "\n")
    else:
        sys.stdout.write(json.dumps(bill(), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
