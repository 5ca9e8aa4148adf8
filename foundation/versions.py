"""Versions of what a result depends on, for the descriptions of artefacts and reports."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("sparsebridge", "torch", "transformers", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Name → version of Python and the packages that make numbers ('source' for an uninstalled checkout)."""
    return {"python": platform.python_version(), **{name: version_of(name) for name in PACKAGES}}


def version_of(package: str) -> str:
    """The installed version of a package; 'source' for an uninstalled checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "source"
