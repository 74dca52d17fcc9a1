"""The rows of a benchmark: who is measured, and how each is treated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib.util import find_spec

from torch import nn

from benchmarks import extractors, settings, whole_models
from benchmarks.cases import Case, Part
from benchmarks.engines import ENGINES
from benchmarks.settings import Setting
from regnet_backbones import zoo
from regnet_backbones.errors import UserError

OURS = "ours"
AS_IT_COMES = Setting()

# Which row others are compared with, unless the user names another.
REFERENCES: dict[Part, str] = {
    "features": "timm",
    "detector": "detectron2",
    "segmenter": "SMP",
    "deeplabv3plus": "SMP",
}


@dataclass(frozen=True)
class Entry:
    """A row: a model, and what is done to it.

    Attributes:
        family: whose model it is; rows of a family differ in setting.
        setting: what is done to the model.
        build: returns the model of a case, with random weights, on the CPU.
        needs: modules that must be installed.
        why_not: returns why a case has no such row, None if it has one.
        our_weights: whether its maps should be those of our extractor.
    """

    family: str
    setting: Setting
    build: Callable[[Case], nn.Module]
    needs: tuple[str, ...] = ()
    why_not: Callable[[Case], str | None] = lambda case: None
    our_weights: bool = False

    @property
    def name(self) -> str:
        """Name of the row."""
        return self.setting.row_name(self.family)

    def reason_to_leave_out(self, case: Case) -> str | None:
        """Say why this row is not measured: not installed, or not to be had of the variant."""
        missing = [name for name in self.needs if find_spec(name) is None]
        if missing:
            return f"{' and '.join(missing)} not installed"
        return self.why_not(case)


def entries_of(part: Part, *, training: bool, device: str = "cpu") -> tuple[Entry, ...]:
    """Return all rows of a part, in all precisions."""
    entries = [
        replace(entry, setting=setting)
        for entry in ENTRIES[part]
        for setting in (settings.OURS if entry.family == OURS else settings.PEERS)[training]
    ]
    entries += [] if training else _engine_entries(part)
    return tuple(entry for entry in entries if _is_for(entry.setting, device))


def select(
    entries: Sequence[Entry], *, precisions: Sequence[str], patterns: Sequence[str] | None = None
) -> tuple[Entry, ...]:
    """Choose rows by precision, and by patterns of their names ("timm", "timm*", "*compiled")."""
    return tuple(
        entry
        for entry in entries
        if entry.setting.precision in precisions
        and (patterns is None or any(fnmatchcase(entry.name, pattern) for pattern in patterns))
    )


def check_names(
    patterns: Sequence[str], entries: Sequence[Entry], *, option: str, precisions: Sequence[str]
) -> None:
    """Raise ValueError for a pattern that no row has, with rows that it may have meant."""
    names = list(dict.fromkeys(entry.name for entry in entries))
    chosen = {entry.name for entry in select(entries, precisions=precisions)}
    for pattern in patterns:
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            similar = get_close_matches(pattern, names, cutoff=0.5)
            hint = f"did you mean {' or '.join(map(repr, similar))}? " if similar else ""
            raise UserError(f"{option}: no row '{pattern}'; {hint}Rows: {'; '.join(names)}")
        if not chosen & set(found):
            raise UserError(
                f"{option}: row '{found[0]}' needs another --dtype than {' '.join(precisions)}"
            )


def _is_for(setting: Setting, device: str) -> bool:
    """Whether a setting can gain anything on a device."""
    if setting.autotuned and device != "cuda":
        return False
    if not setting.freezing:
        return device == "cpu"
    if setting.compiled and not (setting.optimized or setting.channels_last):
        # On a CPU channels last is the faster one, and every compilation takes a minute.
        return device == "cuda"
    return True


def _engine_entries(part: Part) -> list[Entry]:
    """Return the rows of a part's exported file in other engines."""
    return [
        Entry(
            engine.family,
            Setting(precision=engine.precision),
            engine.build,
            engine.needs_for(part),
            engine.why_not,
            our_weights=part == "features",
        )
        for engine in ENGINES
        if part in engine.parts
    ]


def _entry_of(peer: extractors.Peer) -> Entry:
    """Return the row of an extractor of another project."""
    return Entry(
        peer.family,
        AS_IT_COMES,
        peer.build,
        (peer.needs,),
        lambda case: peer.why_not(zoo.get(case.variant)),
        our_weights=peer.dialect is not None,
    )


DETECTRON2, SMP = ("detectron2",), ("segmentation_models_pytorch",)
SEGMENTERS = (
    Entry(OURS, AS_IT_COMES, whole_models.our_segmenter, SMP),
    Entry("SMP", AS_IT_COMES, whole_models.segmenter_of_smp, SMP),
)

# Whose models are measured of a part, each in several settings.
ENTRIES: dict[Part, tuple[Entry, ...]] = {
    "features": (
        Entry(OURS, AS_IT_COMES, extractors.ours, our_weights=True),
        *map(_entry_of, extractors.PEERS),
    ),
    "detector": (
        Entry(OURS, AS_IT_COMES, whole_models.our_detector, DETECTRON2),
        Entry(
            "detectron2",
            AS_IT_COMES,
            whole_models.detector_of_detectron2,
            DETECTRON2,
            lambda case: extractors.not_in_detectron2(zoo.get(case.variant)),
        ),
    ),
    "segmenter": SEGMENTERS,
    "deeplabv3plus": SEGMENTERS,
}
