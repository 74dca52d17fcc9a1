"""Weights files: every form is read, round trips keep every bit, and nothing in a file runs."""

import argparse
import os
import pickle
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from regnet_backbones.weights import unpickling
from regnet_backbones.weights.checkpoints import read_checkpoint, write_checkpoint

SUFFIXES = [".safetensors", ".pkl", ".pth", ".pt", ".bin", ".torch", ".pyth"]


def small_state(value=1.0):
    """One tensor of each kind that networks have, none of them contiguous by accident."""
    return {
        "stem.conv.weight": torch.arange(12.0).reshape(3, 4).t() * value,
        "stem.bn.running_mean": torch.tensor([float("nan"), -0.0, float("inf")]),
        "stem.bn.num_batches_tracked": torch.tensor(7),
        "head.weight": torch.tensor([1.0, 65504.0], dtype=torch.float16),
    }


def assert_same(actual, expected):
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert actual[name].shape == tensor.shape
        assert bits(actual[name]) == bits(tensor)


def bits(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def dump(content, path, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def save(content, path, **options):
    torch.save(content, path, **options)
    return path


class Call:
    """An object that its pickle rebuilds by a call, and a state to set."""

    def __init__(self, function, arguments, *state):
        self.reduced = (function, arguments, *state)

    def __reduce__(self):
        return self.reduced


WRITERS = {
    "zip": lambda content, path: save(content, path.with_suffix(".pth")),
    "old_torch": lambda content, path: save(
        content, path.with_suffix(".pth"), _use_new_zipfile_serialization=False
    ),
    "pickle": lambda content, path: dump(content, path.with_suffix(".pkl")),
    "pickle4": lambda content, path: dump(content, path.with_suffix(".pkl"), protocol=4),
}


# Round trips


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_round_trip_keeps_every_bit(tmp_path, suffix):
    path, written = tmp_path / f"net{suffix}", small_state()
    if suffix != ".pkl":
        written["bfloat16"] = torch.tensor([1.0, -3.0], dtype=torch.bfloat16)
    write_checkpoint(path, written)
    state = read_checkpoint(path).state
    assert_same(state, written)
    if suffix != ".safetensors":
        assert list(state) == list(written)


def test_bfloat16_is_refused_in_a_pkl(tmp_path):
    state = {"stem.weight": torch.zeros(2, dtype=torch.bfloat16)}
    with pytest.raises(ValueError, match=r"net.pkl was not written; .*\.float\(\).*BFloat16"):
        write_checkpoint(tmp_path / "net.pkl", state)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".safetensors", ".pkl", ".pth"])
def test_shared_and_sliced_tensors_are_written_alone(tmp_path, suffix):
    whole = torch.arange(100_000.0)
    state = {"a": whole[:4], "b": whole[:4], "c": whole[2:8:2]}
    path = tmp_path / f"net{suffix}"
    write_checkpoint(path, state)
    assert_same(read_checkpoint(path).state, state)
    assert path.stat().st_size < 10_000


@pytest.mark.parametrize(
    ("suffix", "nesting", "where"),
    [
        (".pth", None, ()),
        (".pt", "model", ("model",)),
        (".pth", "model.state_dict", ("model", "state_dict")),
        (".pyth", None, ("model_state",)),
        (".pyth", "", ()),
    ],
)
def test_torch_files_nest_where_asked(tmp_path, suffix, nesting, where):
    path = tmp_path / f"net{suffix}"
    write_checkpoint(path, small_state(), nesting=nesting)
    content = torch.load(path, weights_only=True)
    for key in where:
        content = content[key]
    assert list(content) == list(small_state())
    checkpoint = read_checkpoint(path)
    assert checkpoint.nesting == ".".join(where)
    assert_same(checkpoint.state, small_state())


def test_a_safetensors_file_says_that_it_is_torchs(tmp_path):
    """Hugging Face's loaders refuse one that does not."""
    write_checkpoint(tmp_path / "net.safetensors", small_state())
    with safetensors.safe_open(tmp_path / "net.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_pkl_of_a_whole_detector_asks_for_no_matching(tmp_path):
    state = {"backbone.bottom_up.stem.weight": torch.ones(1), "roi_heads.weight": torch.ones(1)}
    write_checkpoint(tmp_path / "net.pkl", state)
    content = pickle.loads((tmp_path / "net.pkl").read_bytes())
    assert sorted(content) == ["__author__", "model"]


def test_detectron2_reads_our_pkl_and_pyth(tmp_path):
    pytest.importorskip("detectron2")
    from detectron2.checkpoint import DetectionCheckpointer

    checkpointer = DetectionCheckpointer(nn.Module())
    write_checkpoint(tmp_path / "net.pkl", small_state())
    loaded = checkpointer._load_file(str(tmp_path / "net.pkl"))
    assert (loaded["__author__"], loaded["matching_heuristics"]) == ("regnet_backbones", True)
    assert_same({k: torch.from_numpy(v) for k, v in loaded["model"].items()}, small_state())

    write_checkpoint(tmp_path / "net.pyth", small_state())
    loaded = checkpointer._load_file(str(tmp_path / "net.pyth"))
    expected = small_state()
    del expected["stem.bn.num_batches_tracked"]
    assert_same(loaded["model"], expected)


# Nestings


@pytest.mark.parametrize("keys", [(), ("model",), ("state_dict", "model"), ("ema_state",)])
def test_nested_state_dicts_are_found(tmp_path, keys):
    content = small_state()
    for key in reversed(keys):
        content = {key: content}
    checkpoint = read_checkpoint(save(content, tmp_path / "net.pth"))
    assert_same(checkpoint.state, small_state())
    assert checkpoint.nesting == ".".join(keys)
    assert checkpoint.extras == {}


def test_extras_are_the_other_entries(tmp_path):
    content = {
        "model": small_state(),
        "epoch": 3,
        "optimizer": {"state": {0: {"step": 5}}, "param_groups": [{"lr": np.float64(0.5)}]},
        "order": (np.arange(3), [np.array(2.0, "f4")]),
    }
    extras = read_checkpoint(save(content, tmp_path / "net.pth")).extras
    assert list(extras) == ["epoch", "optimizer", "order"]
    assert extras["epoch"] == 3
    assert extras["optimizer"] == {"state": {0: {"step": 5}}, "param_groups": [{"lr": 0.5}]}
    first, (second,) = extras["order"]
    again = pickle.loads(pickle.dumps(first))
    assert (type(again), again.tolist()) == (np.ndarray, [0, 1, 2])
    assert (first.tolist(), second.tolist(), second.shape) == ([0, 1, 2], 2.0, ())


@pytest.mark.parametrize(
    ("key", "plain"),
    [("state_dict_ema", "state_dict"), ("model_ema", "model"), ("ema_state_dict", "model_state")],
)
def test_averaged_weights_come_before_plain_ones(tmp_path, key, plain):
    content = {plain: small_state(1), key: small_state(2)}
    checkpoint = read_checkpoint(save(content, tmp_path / "net.pth"))
    assert checkpoint.nesting == key
    assert_same(checkpoint.state, small_state(2))
    assert list(checkpoint.extras) == [plain]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_counter_of_an_averaged_model_is_dropped_and_prefixes_stay(tmp_path, prefix):
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(2, 1))
    state = {prefix + name: value for name, value in averaged.state_dict().items()}
    assert prefix + "n_averaged" in state
    path = save({"model": {}, "model_ema": state}, tmp_path / "net.pth")
    assert sorted(read_checkpoint(path).state) == [
        prefix + "module.bias",
        prefix + "module.weight",
    ]


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ({"test_err": 25.0, "ema_err": 24.5}, "ema_state"),
        ({"test_err": np.float64(25.0), "ema_err": torch.tensor(24.5)}, "ema_state"),
        ({"test_err": 24.5, "ema_err": 25.0}, "model_state"),
        ({"test_err": 24.5, "ema_err": float("nan")}, "model_state"),
        ({"test_err": None, "ema_err": 25.0}, "model_state"),
        ({}, "model_state"),
    ],
)
def test_pycls_takes_the_network_with_the_lower_error(tmp_path, errors, expected):
    content = {"epoch": 99, **errors, "model_state": small_state(1), "ema_state": small_state(2)}
    checkpoint = read_checkpoint(save(content, tmp_path / "net.pyth"))
    assert checkpoint.nesting == expected
    assert_same(checkpoint.state, small_state({"model_state": 1, "ema_state": 2}[expected]))


TRUNK = {"_feature_blocks.stem.0.weight": torch.ones(2)}
CLASSY_MODEL = {
    "trunk": TRUNK,
    "heads": {"block3": {"default_head": {"fc.weight": torch.ones(3)}}, "fc.bias": torch.ones(4)},
}


@pytest.mark.parametrize(
    "content",
    [
        {"classy_state_dict": {"base_model": {"model": CLASSY_MODEL, "loss": {}}, "train": True}},
        {"base_model": {"model": CLASSY_MODEL}},
        CLASSY_MODEL,
        {"model": {"classy_state_dict": {"base_model": {"model": CLASSY_MODEL}}}},
    ],
    ids=["classy_state_dict", "base_model", "trunk", "nested"],
)
def test_classy_forms_join_trunk_and_heads(tmp_path, content):
    checkpoint = read_checkpoint(save({**content, "phase": 4}, tmp_path / "net.torch"))
    assert {name: len(value) for name, value in checkpoint.state.items()} == {
        "_feature_blocks.stem.0.weight": 2,
        "heads.block3.default_head.fc.weight": 3,
        "heads.fc.bias": 4,
    }
    assert checkpoint.nesting == "classy_state_dict"
    assert checkpoint.extras == {"phase": 4}


def test_the_classy_form_is_written(tmp_path):
    state = {**TRUNK, "heads.0.clf.weight": torch.ones(3)}
    write_checkpoint(tmp_path / "net.torch", state, nesting="classy_state_dict")
    content = torch.load(tmp_path / "net.torch", weights_only=True)
    model = content["classy_state_dict"]["base_model"]["model"]
    assert {part: list(model[part]) for part in model} == {
        "trunk": list(TRUNK),
        "heads": ["0.clf.weight"],
    }
    assert_same(read_checkpoint(tmp_path / "net.torch").state, state)


# Pickles of numpy arrays


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickled_arrays_are_read_from_every_protocol(tmp_path, protocol):
    arrays = OrderedDict(
        c_order=np.arange(6, dtype="f4").reshape(2, 3),
        f_order=np.asfortranarray(np.arange(6, dtype="f8").reshape(2, 3)),
        permuted=np.arange(24, dtype="i2").reshape(2, 3, 4).transpose(1, 0, 2),
        big_endian=np.arange(3, dtype=">i4"),
        half=np.array([1, 65504], "f2"),
        flag=np.array([True, False]),
        zero_dim=np.array(7),
        empty=np.zeros((0, 3), "f4"),
    )
    content = {"model": arrays, "lr": np.float32(0.5), "ids": {1, 2}, "none": b""}
    checkpoint = read_checkpoint(dump(content, tmp_path / "net.pkl", protocol))
    assert list(checkpoint.state) == list(arrays)
    for name, array in arrays.items():
        tensor = checkpoint.state[name]
        assert tensor.shape == array.shape
        assert tensor.numpy().dtype == array.dtype.newbyteorder("=")
        assert tensor.tolist() == array.tolist()
    assert checkpoint.extras == {"lr": 0.5, "ids": {1, 2}, "none": b""}
    assert type(checkpoint.extras["lr"]) is np.float32


@pytest.mark.parametrize("core", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numpy_is_read_under_its_old_and_its_new_name(tmp_path, core):
    data = pickle.dumps({"model": {"weight": np.arange(3.0)}, "lr": np.float64(2)}, protocol=2)
    data = data.replace(np.arange(1).__reduce__()[0].__module__.encode(), core)
    assert data.count(core) == 2
    (tmp_path / "net.pkl").write_bytes(data)
    checkpoint = read_checkpoint(tmp_path / "net.pkl")
    assert checkpoint.state["weight"].tolist() == [0, 1, 2]
    assert checkpoint.extras == {"lr": 2.0}


def test_python_2_wrote_bytes_as_strings(tmp_path):
    """What Caffe2's files look like: names and array data are 8-bit strings."""
    data = (
        b"\x80\x02}U\x06weightcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
        b"U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x80\xfftbs."
    )
    (tmp_path / "net.pkl").write_bytes(data)
    assert read_checkpoint(tmp_path / "net.pkl").state["weight"].tolist() == [1, -float("inf")]


def test_tensors_made_from_arrays_can_be_written_to(tmp_path):
    content = {"model": {"weight": np.zeros(2, "f4")}, "other": np.zeros(2)}
    checkpoint = read_checkpoint(dump(content, tmp_path / "net.pkl"))
    assert checkpoint.extras["other"].flags.writeable
    tensor = checkpoint.state["weight"]
    tensor += 1
    assert tensor.tolist() == [1, 1]


@pytest.mark.parametrize("writer", ["zip", "old_torch"])
def test_torch_files_may_hold_arrays(tmp_path, writer):
    arrays = {"weight": np.arange(3, dtype="f4"), "empty": np.zeros(0), "zero_dim": np.array(3)}
    state = read_checkpoint(WRITERS[writer]({"model": arrays}, tmp_path / "net")).state
    assert state["weight"].tolist() == [0, 1, 2]
    assert state["empty"].shape == (0,)
    assert (state["zero_dim"].shape, state["zero_dim"].dtype) == ((), torch.int64)


def test_a_file_is_known_by_its_content_and_not_by_its_name(tmp_path):
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "a.pth")
    save({"b": torch.ones(1)}, tmp_path / "b.safetensors")
    save({"c": torch.ones(1)}, tmp_path / "c.pkl", _use_new_zipfile_serialization=False)
    dump({"d": np.ones(1)}, tmp_path / "d")
    names = [list(read_checkpoint(path).state) for path in sorted(tmp_path.iterdir())]
    assert names == [["a"], ["b"], ["c"], ["d"]]


# What would run code


@pytest.mark.parametrize("writer", WRITERS)
def test_a_whole_module_is_refused(tmp_path, writer):
    path = WRITERS[writer](nn.Linear(2, 1), tmp_path / "net")
    with pytest.raises(ValueError, match=r"a state dict.*torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(tmp_path):
    torch.jit.script(nn.Linear(2, 1)).save(str(tmp_path / "net.pt"))
    with pytest.raises(ValueError, match=r"net.pt is TorchScript, which is a program"):
        read_checkpoint(tmp_path / "net.pt")


@pytest.mark.parametrize("writer", WRITERS)
def test_arrays_of_objects_and_records_are_refused(tmp_path, writer):
    for array in (np.array([{}, None]), np.zeros(2, "f4,i4"), Call(np.ndarray, ((2,),))):
        content = {"model": {"bias": np.ones(1), "weight": array}}
        path = WRITERS[writer](content, tmp_path / "net")
        with pytest.raises(ValueError, match=r"not tensors: weight \((\|V1|numpy.ndarray)\)"):
            read_checkpoint(path)


def pickled_array(code, state, count):
    """An array of `count` 8-byte items whose dtype claims what numpy would never write."""
    dtype = Call(np.dtype, (code, False, True), state)
    reconstruct, arguments, _ = np.arange(1).__reduce__()
    return Call(reconstruct, arguments, (1, (count,), dtype, False, bytes(8 * count)))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_dtype_cannot_claim_that_numbers_are_pointers_or_of_another_size(tmp_path, writer):
    """With real numpy the flags 63 stay: it counts references at whatever address is stored."""
    content = {
        "model": {"weight": np.ones(1)},
        "pointers": pickled_array("f8", (3, "<", None, None, None, -1, -1, 63), count=2),
        "long": pickled_array("S8", (3, "|", None, None, None, 800, 1, 0), count=1),
    }
    read = read_checkpoint(WRITERS[writer](content, tmp_path / "net")).extras
    assert not read["pointers"].dtype.hasobject
    assert read["pointers"].tolist() == [0.0, 0.0]
    assert read["long"].dtype == np.dtype("S8")


@pytest.mark.parametrize("writer", WRITERS)
def test_an_array_cannot_claim_another_length_than_its_bytes(tmp_path, writer):
    reconstruct, arguments, (version, _, *state) = np.zeros(2).__reduce__()
    for claimed in (1, 3):
        array = Call(reconstruct, arguments, (version, (claimed,), *state))
        path = WRITERS[writer]({"model": {"weight": array}}, tmp_path / "net")
        with pytest.raises(ValueError, match="damaged"):
            read_checkpoint(path)


@pytest.mark.parametrize("writer", ["zip", "old_torch"])
@pytest.mark.parametrize("count", [0, 2])
def test_a_tensor_cannot_claim_more_values_than_its_storage_has(tmp_path, writer, count):
    values = torch.ones(count)
    for size, offset, state in (((9,), 0, ()), ((2,), 1, ()), ((0,), 0, [(values, 0, (9,), (1,))])):
        arguments = (values.storage(), offset, size, (1,), False, OrderedDict())
        tensor = Call(torch._utils._rebuild_tensor_v2, arguments, *state)
        path = WRITERS[writer]({"model": {"weight": tensor}}, tmp_path / "net")
        with pytest.raises(ValueError, match="damaged"):
            read_checkpoint(path)


def test_a_pickle_cannot_change_what_stands_for_its_names(tmp_path):
    """It sets an attribute of the function and of the class that it was given."""
    for name in (b"_codecs\nencode", b"collections\nOrderedDict", b"numpy\ndarray"):
        data = b"\x80\x02}U\x01ac" + name + b"\nN}U\x04nameU\x05takens\x86bs."
        (tmp_path / "net.pkl").write_bytes(data)
        with pytest.raises(ValueError, match="with the keys a"):
            read_checkpoint(tmp_path / "net.pkl")
    assert not hasattr(unpickling._Named, "name")


def test_the_options_of_a_training_script_may_lie_beside_the_weights(tmp_path):
    """As timm's and torchvision's scripts save them."""
    options = argparse.Namespace(lr=0.1, model="regnety_032")
    path = save({"state_dict": small_state(), "args": options}, tmp_path / "model_best.pth.tar")
    checkpoint = read_checkpoint(path)
    assert checkpoint.nesting == "state_dict"
    assert checkpoint.extras["args"].name == "argparse.Namespace"


# What is no weights file


FORMATS = {
    "zip": ".pth",
    "safetensors": ".safetensors",
    "pickle": ".pkl",
}


@pytest.mark.parametrize("form", ["zip", "safetensors", "pickle", "old_torch"])
def test_truncated_files_are_called_so(tmp_path, form):
    path = tmp_path / f"net{FORMATS.get(form, '.pth')}"
    state = {"weight": torch.arange(500.0), "bias": torch.arange(500.0)}
    if form == "old_torch":
        save(state, path, _use_new_zipfile_serialization=False)
    else:
        write_checkpoint(path, state)
    data = path.read_bytes()
    assert_same(read_checkpoint(path).state, state)
    for length in (0, 1, 3, 9, 16, 40, 0.3, 0.6, 0.9, -20, -1):
        cut = data[: int(length * len(data)) if isinstance(length, float) else length]
        path.write_bytes(cut)
        with pytest.raises(ValueError, match=rf"{path} \({len(cut)} bytes\) .* damaged"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    "text",
    [
        "<!DOCTYPE html><html>Sign in</html>",
        "\ufeff\n <html><body>404</body></html>",
        '<?xml version="1.0"?><Error/>',
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    ],
)
def test_a_failed_download_is_named(tmp_path, text):
    path = tmp_path / "net.pth"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"{path} is a web page or a git-lfs pointer"):
        read_checkpoint(path)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/net.pth does not exist"):
        read_checkpoint(tmp_path / "net.pth")
    with pytest.raises(ValueError, match=rf"{tmp_path} is a folder"):
        read_checkpoint(tmp_path)


def test_an_error_of_the_disk_is_not_called_damage(tmp_path, monkeypatch):
    def fail(_):
        raise PermissionError("not yours")

    write_checkpoint(tmp_path / "net.safetensors", small_state())
    monkeypatch.setattr(safetensors.torch, "load_file", fail)
    with pytest.raises(PermissionError, match="not yours"):
        read_checkpoint(tmp_path / "net.safetensors")


def test_another_zip_archive_is_called_so(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.zip", "w") as archive:
        archive.writestr("readme.txt", "weights are elsewhere")
    with pytest.raises(ValueError, match=r"or another zip archive"):
        read_checkpoint(tmp_path / "net.zip")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "weights": {"a": 1.5}}, "keys epoch, weights; save"),
        (torch.ones(1), r"a state dict, got a Tensor; save"),
        ({"a": torch.ones(1), "b": 1.5, "c": "x"}, r"not tensors: b \(float\), c \(str\); save"),
        ({"a": torch.ones(1), "b": np.array(["x"])}, r"not tensors: b \(<U1\); save"),
        ({1: torch.ones(1)}, r"not tensors: 1 \(a name that is not text\); save"),
    ],
)
def test_files_without_a_state_dict(tmp_path, content, message):
    for writer in ("zip", "old_torch"):
        path = WRITERS[writer](content, tmp_path / "net")
        with pytest.raises(ValueError, match=f"{path}.*{message}"):
            read_checkpoint(path)


# Writing


def test_a_missing_folder_is_made_and_an_existing_file_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "net.pth"
    write_checkpoint(path, small_state(1))
    write_checkpoint(path, small_state(2))
    assert_same(read_checkpoint(path).state, small_state(2))
    assert [p.name for p in path.parent.iterdir()] == ["net.pth"]


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"net{suffix}"
    write_checkpoint(path, small_state(1))

    def fail(content, file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    monkeypatch.setattr(pickle, "dump", fail)
    monkeypatch.setattr(os, "replace", lambda *_: fail(None, sys.stdout.buffer))
    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(path, small_state(2))
    assert_same(read_checkpoint(path).state, small_state(1))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["net.onnx", "net"])
def test_an_unknown_suffix_lists_the_known_ones(tmp_path, name):
    with pytest.raises(ValueError, match=r"\.safetensors, \.pkl, \.pth, \.pt, \.bin, \.torch, .py"):
        write_checkpoint(tmp_path / name, small_state())


@pytest.mark.parametrize(
    ("name", "nesting", "message"),
    [
        ("net.safetensors", "model", "nesting 'model' needs"),
        ("net.pkl", "", "nesting '' needs"),
    ],
)
def test_a_nesting_that_does_not_fit_is_refused(tmp_path, name, nesting, message):
    with pytest.raises(ValueError, match=f"{message}.*{tmp_path}/{name}"):
        write_checkpoint(tmp_path / name, small_state(), nesting=nesting)
    assert list(tmp_path.iterdir()) == []
