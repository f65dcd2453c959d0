"""Libraries that only some jobs need, and that come with an optional extra."""

from importlib.util import find_spec


class ExtraError(ValueError):
    """A library of an optional extra is not installed."""


def require_libraries(extra: str, *libraries: str) -> None:
    """Look whether libraries are installed, before work that needs them at its end.

    Args:
        extra: the one of this project that they come with.
        libraries: names to import them by.

    Raises:
        ExtraError: naming what is missing and how to install it.
    """
    if missing := [name for name in libraries if find_spec(name) is None]:
        how = f"pip install -e '.[{extra}]' in the project's folder"
        raise ExtraError(f"{', '.join(missing)} not installed: {how}")
