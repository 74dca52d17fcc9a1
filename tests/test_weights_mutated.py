"""State dicts and files that were changed: the same values are loaded, or none and an error."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from regnet_backbones import RegNetDesign, RegNetFeatures, weights
from regnet_backbones.weights.conversion import convert_file
from regnet_backbones.weights.unpickling import read_content

DESIGN = RegNetDesign(w_0=8, w_a=8.0, w_m=1.5, depth=6, group_width=8, se_ratio=0.25)
WEIGHT, VARIANCE, COUNTER = (
    "s1.b1.conv1.conv.weight",
    "s1.b1.conv1.bn.running_var",
    "s1.b1.conv1.bn.num_batches_tracked",
)
EXACT = {"float64", "big-endian", "not contiguous", "read-only", "parameter", "counter of int32"}
ROUNDED = {"float16", "bfloat16", "float8"}


@pytest.fixture
def network(randomize):
    return randomize(RegNetFeatures(DESIGN))


def why_not(read):
    """Return the message of a ValueError, None where there is none."""
    try:
        read()
    except ValueError as error:
        return str(error)
    return None


def with_value(name, change):
    return lambda state: {**state, name: change(state[name])}


def put(value, number):
    value = value.clone()
    value.view(-1)[number % value.numel()] = {0: np.nan, 1: np.inf, 2: -np.inf}[number % 3]
    return value


def put_in_one(state, number):
    name = random.Random(number).choice(sorted(n for n in state if not n.endswith("tracked")))
    return {**state, name: put(state[name], number)}


def sparse(value):
    return value.to_sparse()


def quantized(value):
    return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


# Each returns a changed state dict; the numbers are drawn from a seed.
CHANGES = {
    "int8": with_value(WEIGHT, lambda v: v.to(torch.int8)),
    "int64": with_value(WEIGHT, lambda v: v.long()),
    "bool": with_value(WEIGHT, lambda v: v > 0),
    "complex": with_value(WEIGHT, lambda v: v.to(torch.complex64)),
    "1e300": with_value(WEIGHT, lambda v: v.double() * 1e300),
    "variance below 0": with_value(VARIANCE, lambda v: -v),
    "sparse": with_value(WEIGHT, sparse),
    "quantized": with_value(WEIGHT, quantized),
    "meta": with_value(WEIGHT, lambda v: v.to("meta")),
    "NaN counter": with_value(COUNTER, lambda v: torch.tensor(np.nan)),
    "bool counter": with_value(COUNTER, lambda v: torch.tensor(True)),
    "transposed": with_value(WEIGHT, lambda v: v.permute(2, 3, 0, 1)),
    "one row less": with_value(WEIGHT, lambda v: v[1:]),
    "a dimension more": with_value(WEIGHT, lambda v: v[None]),
    "a scalar": with_value(WEIGHT, lambda v: v.flatten()[0]),
    "missing": lambda state: {n: v for n, v in state.items() if n != WEIGHT},
    "extra": lambda state: {**state, "s1.b1.conv9.conv.weight": state[WEIGHT]},
    "extra stage": lambda state: {**state, "s9.b1.conv1.conv.weight": state[WEIGHT]},
    "objects": with_value(WEIGHT, lambda v: v.numpy().astype(object)),
    "texts": with_value(WEIGHT, lambda v: v.numpy().astype("U8")),
    "a list": with_value(WEIGHT, lambda v: v.tolist()),
    "None": with_value(WEIGHT, lambda v: None),
    "a number for a name": lambda state: {**state, 7: state[WEIGHT]},
    "a long name": lambda state: {**state, "s1." + "a\n" * 9999: state[WEIGHT]},
    # Of the same value:
    "float64": with_value(WEIGHT, lambda v: v.double()),
    "big-endian": with_value(WEIGHT, lambda v: v.numpy().astype(">f4")),
    "not contiguous": with_value(WEIGHT, lambda v: v.numpy()[::-1].copy()[::-1]),
    "read-only": with_value(
        WEIGHT, lambda v: np.frombuffer(v.numpy().tobytes(), "f4").reshape(v.shape)
    ),
    "parameter": with_value(WEIGHT, nn.Parameter),
    "counter of int32": with_value(COUNTER, lambda v: v.int()),
    # Of nearly the same:
    "float16": with_value(WEIGHT, lambda v: v.half()),
    "bfloat16": with_value(WEIGHT, lambda v: v.bfloat16()),
    "float8": with_value(WEIGHT, lambda v: v.to(torch.float8_e4m3fn)),
    **{f"not finite {n}": partial(put_in_one, number=n) for n in range(3)},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:.*(Sparse|sparse|nested|quantiz)")
def test_a_changed_state_dict_loads_as_it_was_or_not_at_all(change, network, tmp_path):
    state = dict(network.state_dict())
    changed = CHANGES[change](state)
    sources = [changed]
    for is_zip in (True, False):
        try:
            path = tmp_path / f"{is_zip}.pth"
            torch.save(changed, path, _use_new_zipfile_serialization=is_zip)
            sources.append(path)
        except (NotImplementedError, RuntimeError):
            assert change in ("meta", "sparse", "quantized")
    tolerance = 0.1 if change in ROUNDED else 0
    for source in sources:
        model = RegNetFeatures(DESIGN)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        message = why_not(lambda source=source, model=model: weights.load(model, source))
        assert (message is None) == (change in (*EXACT, *ROUNDED)), message
        if message is not None:
            assert "\n" not in message
            assert len(message) < 1500
        expected = state if message is None else before
        for name, value in model.state_dict().items():
            assert value.isfinite().all()
            torch.testing.assert_close(value, expected[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("change", ["1e300", "variance below 0", "int8", "not finite 1"])
def test_a_conversion_refuses_what_no_model_takes(change, network, tmp_path):
    torch.save(CHANGES[change](dict(network.state_dict())), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="the weights have"):
        convert_file(tmp_path / "a.pth", tmp_path / "b.pth", to="pycls")
    assert not (tmp_path / "b.pth").exists()


def test_arrays_are_told_apart_and_renamed_as_tensors_are(network):
    state = dict(network.state_dict())
    arrays = {name: value.numpy() for name, value in state.items()}
    assert weights.detect(arrays) == "timm"
    theirs = weights.convert(arrays, "timm", "torchvision")
    expected = weights.convert(state, "timm", "torchvision")
    assert theirs.keys() == expected.keys()
    assert all(torch.equal(theirs[name], value) for name, value in expected.items())


# Files


@pytest.mark.parametrize("seed", range(2))
def test_a_flipped_byte_is_found_or_changes_nothing(seed, tmp_path):
    """All bytes of the values and of the pickle have a checksum; dates and padding have none."""
    drawn = random.Random(seed)
    state = {"a": torch.randn(300), "b": torch.arange(40), "c": torch.zeros(0)}
    torch.save(state, tmp_path / "a.pth")
    data = bytearray((tmp_path / "a.pth").read_bytes())
    found = 0
    for place in drawn.sample(range(len(data)), 60):
        damaged = data.copy()
        damaged[place] ^= 1 << drawn.randrange(8)
        (tmp_path / "b.pth").write_bytes(damaged)
        message = why_not(lambda: read_content(tmp_path / "b.pth"))
        if message is not None:
            found += 1
            assert message.startswith(str(tmp_path / "b.pth"))
        else:
            read = read_content(tmp_path / "b.pth")
            assert read.keys() == state.keys()
            assert all(torch.equal(read[name], state[name]) for name in state)
    assert found
