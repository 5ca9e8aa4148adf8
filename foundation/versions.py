"""Versions of what a result depends on, for the descriptions of artefacts and reports."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("sparsebridge", "torch", "transformers", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Name → version of Python and the packages that make numbers ('source' for an uninstalled checkout)."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "source"
    return found
