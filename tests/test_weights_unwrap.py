"""Where a network is found in a checkpoint, and how one of several is chosen."""

import random

import pytest
import torch

from regnet_backbones import RegNetFeatures, weights
from regnet_backbones.weights.checkpoints import locate

KEYS = (
    "net", "network", "backbone", "module", "params", "weights", "generator", "checkpoint", "model",
    "state_dict", "x", "trunk_and_more", "best", "0", "encoder.q",
)  # fmt: skip
PREFIXES = ("", "module.", "backbone.", "module.backbone.bottom_up.", "_orig_mod.net.", "regnet.")
AVERAGED = ("{}_ema", "ema_{}", "ema", "{}_EMA")


@pytest.fixture(scope="module")
def state():
    """Return the names and shapes of a small network, without data; what is compared is `is`."""
    with torch.device("meta"):
        return RegNetFeatures("regnetx_002").state_dict()


def copy_of(state, prefix=""):
    """Return new tensors of the same shapes, below a prefix."""
    return {prefix + name: torch.empty_like(value) for name, value in state.items()}


def optimizer_of(state, draw):
    """Return what an optimizer keeps of a network, by numbers or by the names of its weights."""
    moments = {n: torch.zeros(1) for n in state if n.endswith(("weight", "bias"))}
    by_name = {name: {"exp_avg": value, "step": torch.zeros(())} for name, value in moments.items()}
    by_number = {"state": dict(enumerate(by_name.values())), "param_groups": [{"lr": 0.1}]}
    whole = {"state": {"momentum": copy_of(state)}}
    return draw.choice([by_number, {"state": by_name}, whole])


def wrapped(content, draw, depth):
    """Put content below keys of a training script, with what such scripts keep next to it."""
    keys = [draw.choice(KEYS) for _ in range(depth)]
    for key in reversed(keys):
        others = {
            "epoch": 3,
            "args": {"lr": 0.1, "loss": torch.zeros(())},
            "optimizer": {"param_groups": []},
            "callbacks": {"early": {"best_score": torch.zeros(())}},
            None: None,
        }
        kept = draw.sample(list(others), draw.randint(0, 3))
        content = {**{k: others[k] for k in kept}, key: content}
    return content, ".".join(keys)


def is_of(network, own):
    return all(network.state[name.removeprefix(network.prefix)] is v for name, v in own.items())


@pytest.mark.parametrize("seed", range(8))
def test_a_network_is_found_below_any_keys_and_prefix(seed, state):
    draw = random.Random(seed)
    prefix = draw.choice(PREFIXES)
    own = copy_of(state, prefix)
    siblings = {draw.choice(KEYS): own}
    (key,) = siblings
    siblings |= {draw.choice(("optimizer", "optim_g", "gOptimizer")): optimizer_of(own, draw)}
    if draw.random() < 0.5:  # next to the weights, and by their names
        moments = {n: torch.zeros(1) for n in own if n.endswith(("weight", "bias"))}
        siblings = {"momentum": {"of_weights": moments}, **siblings}
    content, keys = wrapped(siblings, draw, draw.randint(0, 2))
    found = locate(content)
    assert is_of(found, own)
    assert found.prefix == prefix
    assert found.place == ".".join(filter(None, (keys, key, prefix)))
    assert is_of(locate(content, found.place), own)
    assert weights.detect(content) == "timm"


@pytest.mark.parametrize("seed", range(4))
def test_averaged_weights_come_before_their_plain_ones_below_any_keys(seed, state):
    draw = random.Random(seed)
    prefix, key = draw.choice(PREFIXES), draw.choice(("model", "params", "net", "state_dict"))
    plain, averaged = copy_of(state, prefix), copy_of(state, prefix)
    average_key = draw.choice(AVERAGED).format(key)
    pair = [(key, plain), (average_key, averaged), ("optimizer", optimizer_of(plain, draw))]
    draw.shuffle(pair)
    content, keys = wrapped(dict(pair), draw, draw.randint(0, 2))
    assert is_of(locate(content), averaged)
    assert is_of(locate(content, ".".join(filter(None, (keys, key)))), plain)


@pytest.mark.parametrize("seed", range(4))
def test_one_of_several_is_chosen_by_keys_by_prefix_or_both(seed, state):
    draw = random.Random(seed)
    names = draw.sample(("student", "teacher", "online", "target", "net_a", "net_b"), 3)
    prefixes = draw.sample(PREFIXES, 3)
    networks = {n: copy_of(state, p) for n, p in zip(names, prefixes, strict=True)}
    content, keys = wrapped({**networks, "epoch": 3}, draw, draw.randint(0, 2))
    places = [".".join(filter(None, (keys, n, p))) for n, p in zip(names, prefixes, strict=True)]
    with pytest.raises(ValueError, match="more than one RegNet") as error:
        locate(content)
    assert all(repr(place) in str(error.value) for place in places)
    with pytest.raises(ValueError, match="no RegNet under 'nowhere'") as error:
        locate(content, "nowhere")
    assert all(repr(place) in str(error.value) for place in places)
    for name, prefix, place in zip(names, prefixes, places, strict=True):
        path = f"{keys}.{name}" if keys else name
        for given in (place, path, f"{path}.", f"{path}.{prefix.split('.')[0]}", prefix):
            found = locate(content, given)
            assert is_of(found, networks[name])
            assert found.prefix == prefix


@pytest.mark.parametrize("suffix", ["", "."])
def test_networks_of_one_state_dict_are_chosen_by_prefix(suffix, state):
    student = copy_of(state, "student.backbone.")
    teacher = copy_of(state, "teacher.backbone.")
    content = {"model": {**student, **teacher}, "epoch": 3}
    for given in ("teacher", "teacher.backbone", "model.teacher", "model.teacher.backbone"):
        assert is_of(locate(content, given + suffix), teacher)
    with pytest.raises(ValueError, match="'model.student.backbone.', 'model.teacher.backbone.'"):
        locate(content, "model")
    converted = weights.convert(content, "timm", "pycls", prefix="teacher", channel_order="BGR")
    assert len(converted) == len(student) + len(teacher)
    assert {n for n in converted if ".f." in n} == {
        n for n in converted if n.startswith("teacher.backbone.s") and ".f." in n
    }


def test_a_teacher_is_read_from_a_file_and_written_where_it_was(tmp_path, randomize):
    student, teacher = (randomize(RegNetFeatures("regnetx_002")).state_dict() for _ in range(2))
    content = {
        "student": {f"module.backbone.{k}": v for k, v in student.items()},
        "teacher": {f"backbone.{k}": v for k, v in teacher.items()},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}},
        "epoch": 3,
    }
    torch.save(content, tmp_path / "dino.pth")
    with pytest.raises(ValueError, match=r"dino\.pth: there is more than one RegNet"):
        weights.read_checkpoint(tmp_path / "dino.pth")
    checkpoint = weights.read_checkpoint(tmp_path / "dino.pth", prefix="teacher")
    assert checkpoint.nesting == "teacher"
    assert list(checkpoint.extras) == ["student", "optimizer", "epoch"]
    features = RegNetFeatures("regnetx_002")
    report = weights.load(features, tmp_path / "dino.pth", prefix="teacher.backbone.")
    assert len(report.loaded) == len(teacher)
    assert torch.equal(features.stem.bn.bias, teacher["stem.bn.bias"])
    weights.write_checkpoint(tmp_path / "b.pth", checkpoint.state, nesting="a.teacher")
    again = weights.read_checkpoint(tmp_path / "b.pth")
    assert again.nesting == "a.teacher"
    assert again.state.keys() == checkpoint.state.keys()
