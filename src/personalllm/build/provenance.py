"""List the versions of the packages that took part."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

__all__ = ["package_versions"]


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of the named packages that are installed.

    >>> sorted(package_versions(["numpy", "no-such-package"]))
    ['numpy', 'python']
    """
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
