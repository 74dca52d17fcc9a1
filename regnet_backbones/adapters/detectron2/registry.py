"""Our builders in detectron2's registries, without taking a name from anybody.

Detectron2's registries refuse a second entry of one name. A project that carries its own copy of a
RegNet builder must go on working as it did, whichever is imported first.
"""

import logging
from collections.abc import Callable, Mapping

from fvcore.common.registry import Registry

logger = logging.getLogger(__name__)

HOW_TO_GET_OURS = (
    "for ours call regnet_backbones.adapters.detectron2.builders.register_builders(replace=True)"
)


def register(registry: Registry, entries: Mapping[str, Callable], *, replace: bool = False) -> None:
    """Register entries by name.

    An entry of the same name that somebody else registered stays, with a warning, whether it came
    before this or comes later.

    Args:
        registry: one of detectron2's.
        entries: what to register, by the name in a config, which is that of the object.
        replace: take the name from the other entry instead.
    """
    for name, entry in entries.items():
        other = registry._obj_map.get(name)
        if other is entry:
            continue
        if other is not None and not replace:
            _say_theirs_stays(name, other)
            continue
        registry._obj_map.pop(name, None)
        registry.register(entry)
    _let_later_entries_win(registry, entries)


def _let_later_entries_win(registry: Registry, entries: Mapping[str, Callable]) -> None:
    """Let what is registered later under one of our names take it, with a warning.

    Detectron2's registry would raise in the import of a project that has its own copy.
    """
    if hasattr(registry._do_register, "lets_later_entries_win"):
        return
    do_register = registry._do_register

    def do_register_over_ours(name: str, entry: Callable) -> None:
        ours = entries.get(name)
        if ours is not None and entry is not ours and name in registry:
            del registry._obj_map[name]
            _say_theirs_stays(name, entry)
        do_register(name, entry)

    do_register_over_ours.lets_later_entries_win = True
    registry._do_register = do_register_over_ours


def _say_theirs_stays(name: str, entry: Callable) -> None:
    """Warn that somebody else's entry is used under one of our names."""
    logger.warning(
        "%s is registered by %s, which is used instead of regnet_backbones' own; %s",
        name,
        getattr(entry, "__module__", entry),
        HOW_TO_GET_OURS,
    )
