"""Packages that the tool takes and the package of designs does not."""

from importlib.util import find_spec

from regnet_backbones.errors import MissingPackageError


def check_package(name: str, what: str) -> None:
    """Raise for a package that is not installed, before what takes long to compute.

    Args:
        name: of the package, as it is imported.
        what: takes it, in the plural.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    if find_spec(name) is None:
        raise MissingPackageError(
            f"{what} take {name}, which is not installed; "
            "`pip install 'regnet_backbones[design]'` installs it",
            name=name,
        )
