"""The rows of a benchmark: who is measured, and how each is treated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    entries = {
        "features": _extractor_entries,
        "detector": _detector_entries,
        "segmenter": _segmenter_entries,
        "deeplabv3plus": _segmenter_entries,
    }[part](training)
    if not training:
        entries += _engine_entries(part)
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


def _extractor_entries(training: bool) -> list[Entry]:
    """Return the rows of extractors."""
    entries = [
        Entry(OURS, setting, extractors.ours, our_weights=True)
        for setting in settings.OURS[training]
    ]
    for peer in extractors.PEERS:
        entries += [
            Entry(
                peer.family,
                setting,
                peer.build,
                (peer.needs,),
                lambda case, peer=peer: peer.why_not(zoo.get(case.variant)),
                our_weights=peer.dialect is not None,
            )
            for setting in settings.PEERS[training]
        ]
    return entries


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


def _detector_entries(training: bool) -> list[Entry]:
    """Return the rows of detectors."""
    needs = ("detectron2",)

    def why_not(case: Case) -> str | None:
        return extractors.not_in_detectron2(zoo.get(case.variant))

    return [
        *(
            Entry(OURS, setting, whole_models.our_detector, needs)
            for setting in settings.OURS[training]
        ),
        *(
            Entry("detectron2", setting, whole_models.detector_of_detectron2, needs, why_not)
            for setting in settings.PEERS[training]
        ),
    ]


def _segmenter_entries(training: bool) -> list[Entry]:
    """Return the rows of segmenters."""
    needs = ("segmentation_models_pytorch",)
    return [
        *(
            Entry(OURS, setting, whole_models.our_segmenter, needs)
            for setting in settings.OURS[training]
        ),
        *(
            Entry("SMP", setting, whole_models.segmenter_of_smp, needs)
            for setting in settings.PEERS[training]
        ),
    ]
