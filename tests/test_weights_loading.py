"""Loading: completely or not at all, into extractors and whole models, with a report."""

import hashlib

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from detectron2.modeling import build_model

from regnet_backbones import RegNetFeatures, config_path, weights, zoo
from regnet_backbones.detection.config import default_config
from regnet_backbones.weights import sources


@pytest.fixture
def state(randomize):
    """Return the state dict of a classifier, in timm's names."""
    return dict(randomize(timm.create_model("regnety_002", num_classes=7)).state_dict())


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Give torch hub and the Hugging Face hub empty caches, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "huggingface"))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def assert_loaded(features, state):
    for key, value in features.state_dict().items():
        assert torch.equal(value, state[key]), key


# Sources


def test_the_report_says_what_was_done(state):
    features = RegNetFeatures("regnety_002", out_levels=(2, 3))
    report = weights.load(features, weights.convert(state, "timm", "pycls"))
    assert report.dialect == "pycls"
    assert report.channel_order == "BGR"
    assert report.flipped
    assert report.licence is None
    assert set(report.loaded) == set(features.state_dict())
    assert {name.split(".")[0] for name in report.dropped} == {"s3", "s4", "head"}
    assert_loaded(features, state)
    said = str(report)
    assert f"pycls's names, {len(report.loaded)} entries loaded, dropped " in said
    assert (
        "(s3, s4, head); for BGR images, stem flipped to the other order; licence unknown" in said
    )


def test_a_stem_is_flipped_once(state):
    there = weights.convert(state, "timm", "pycls")
    assert torch.equal(there["stem.conv.weight"], state["stem.conv.weight"].flip(1))
    features = RegNetFeatures("regnety_002")
    weights.load(features, there)
    again = RegNetFeatures("regnety_002")
    weights.load(again, weights.convert(features.state_dict(), "timm", "pycls"))
    assert torch.equal(again.stem.conv.weight, state["stem.conv.weight"])


@pytest.mark.parametrize(
    ("name", "network", "file", "dialect", "licence"),
    [
        (True, "regnety_002", "regnety_002.pycls_in1k.safetensors", "timm", "mit"),
        ("pycls_in1k", "regnety_002", "regnety_002.pycls_in1k.safetensors", "timm", "mit"),
        (
            "torchvision://regnet_y_400mf",
            "regnety_004",
            "regnet_y_400mf-e6988f5f.pth",
            "torchvision",
            "bsd-3-clause",
        ),
        (
            "torchvision://regnet_y_400mf.IMAGENET1K_V1",
            "regnety_004",
            "regnet_y_400mf-c65dace8.pth",
            "torchvision",
            "bsd-3-clause",
        ),
        ("pycls://RegNetY-200MF", "regnety_002", "RegNetY-200MF_dds_8gpu.pyth", "pycls", "mit"),
    ],
)
def test_pretrained_takes_every_source(
    name, network, file, dialect, licence, hub, randomize, caplog
):
    state = dict(randomize(timm.create_model(network)).state_dict())
    weights.write_checkpoint(hub / file, weights.convert(state, "timm", dialect))
    with caplog.at_level("INFO", logger="regnet_backbones"):
        assert_loaded(RegNetFeatures(network, pretrained=name, norm="FrozenBN"), state)
    assert f"licence {licence}" in caplog.text


def test_the_hub_of_timm_is_asked_for_timms_weights(hub, state, monkeypatch):
    asked = []

    def hf_hub_download(repo_id, filename, *, subfolder, revision):
        asked.append((repo_id, filename, subfolder, revision))
        weights.write_checkpoint(hub / "elsewhere.safetensors", state)
        return str(hub / "elsewhere.safetensors")

    monkeypatch.setattr(sources, "hf_hub_download", hf_hub_download)
    assert_loaded(RegNetFeatures("regnety_002", pretrained=True), state)
    assert asked == [("timm/regnety_002.pycls_in1k", "model.safetensors", None, None)]


def test_a_download_is_kept_and_its_hash_is_checked(hub, state, tmp_path):
    """A published name ends with the first digits of the file's hash."""
    published = tmp_path / "published.pth"
    weights.write_checkpoint(published, weights.convert(state, "timm", "torchvision"))
    right = hashlib.sha256(published.read_bytes()).hexdigest()[:8]
    source = sources.Source(
        "torchvision://x",
        file=hub / f"x-{right}.pth",
        url=published.as_uri(),
        dialect="torchvision",
    )
    assert sources.local_file(source) == source.file
    published.unlink()
    assert sources.local_file(source) == source.file  # now from the cache
    assert_loaded(RegNetFeatures("regnety_002", pretrained=source.file), state)
    published.write_bytes(b"not what was published")
    other = sources.Source(
        "torchvision://x",
        file=hub / "y-0123abcd.pth",
        url=published.as_uri(),
        dialect="torchvision",
    )
    with pytest.raises(OSError, match="could not fetch .*invalid hash value"):
        sources.local_file(other)
    assert not other.file.exists()


@pytest.mark.parametrize(
    ("name", "url"),
    [
        (True, "https://huggingface.co/timm/regnety_002.pycls_in1k/resolve/main/model.safetensors"),
        (
            "pycls://RegNetY-200MF",
            "https://dl.fbaipublicfiles.com/pycls/dds_baselines/176245422/RegNetY-200MF_dds_8gpu",
        ),
    ],
)
def test_without_a_network_the_error_says_what_to_do(name, url, hub, monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(OSError, match="could not fetch the weights") as error:
        RegNetFeatures("regnety_002", pretrained=name)
    said = str(error.value)
    assert url in said
    assert str(hub) in said
    assert "pass pretrained=False (SMP: encoder_weights=None; Detectron2: MODEL.WEIGHTS ''" in said


def test_urls_with_the_same_file_name_are_kept_apart(hub, state, monkeypatch):
    """On the Hugging Face hub every file is a model.safetensors."""
    other = {k: v + 1 for k, v in state.items()}
    served = {
        f"https://localhost/{n}/model.safetensors": s for n, s in (("a", state), ("b", other))
    }
    asked = []

    def download_url_to_file(url, file, hash_prefix=None):
        asked.append(url)
        weights.write_checkpoint(file, served[url])

    monkeypatch.setattr(torch.hub, "download_url_to_file", download_url_to_file)
    weights.write_checkpoint(hub / "model.safetensors", {k: v + 2 for k, v in state.items()})
    for _ in range(2):  # downloaded, and from the cache
        for url, theirs in served.items():
            assert_loaded(RegNetFeatures("regnety_002", pretrained=url), theirs)
    assert asked == list(served)


def test_no_two_published_files_are_kept_under_one_name(hub):
    urls = {}
    for name in zoo.names():
        for tag, row in zoo.get(name).weights.items():
            for source in (f"timm://{name}.{tag}", row.url):
                if source:
                    found = sources.find_source(source)
                    assert urls.setdefault(found.file, found.url) == found.url
    # Whose file it is, these names do not say: others have one, too.
    assert not {"model.safetensors", "model_final_checkpoint_phase0.torch"} & {
        file.name for file in urls
    }


def test_licences_that_forbid_commercial_use_are_known():
    find = sources.find_source
    assert find("torchvision://regnet_y_16gf.IMAGENET1K_SWAG_E2E_V1").licence == "cc-by-nc-4.0"
    assert find("torchvision://regnet_y_16gf.IMAGENET1K_V2").licence == "bsd-3-clause"
    assert find("timm://regnety_320.seer").licence == "seer-license"
    url = zoo.get("regnety_320").weights["seer"].url
    assert find(url).licence == "seer-license"
    assert find("https://localhost/mine.pth").licence is None


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("timm://regnety_032.ra_in1k", ValueError, "need the network regnety_032, got"),
        ("ftp://x/y.pth", ValueError, "begin with timm://, torchvision://"),
        ("nowhere.pth", FileNotFoundError, "nowhere.pth does not exist"),
    ],
)
def test_sources_that_cannot_be_used_say_why(source, error, message):
    with pytest.raises(error, match=message):
        weights.load(RegNetFeatures("regnety_002"), source)


# What does not match


def test_weights_that_do_not_match_change_nothing_and_are_listed(state):
    features = RegNetFeatures("regnety_002")
    before = {k: v.clone() for k, v in features.state_dict().items()}
    theirs = weights.convert(state, "timm", "torchvision")
    del theirs["trunk_output.block2.block2-0.f.b.0.weight"]
    theirs["trunk_output.block9.block9-0.f.x.weight"] = torch.zeros(1)
    theirs["stem.1.bias"] = torch.zeros(7)
    with pytest.raises(ValueError, match="do not match the network, nothing was loaded") as error:
        weights.load(features, theirs)
    said = str(error.value)
    assert "1 missing: s2.b1.conv2.conv.weight" in said
    assert "1 unknown: trunk_output.block9.block9-0.f.x.weight" in said
    assert "1 of another shape: stem.bn.bias (7,) for (32,)" in said
    assert_loaded(features, before)


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        ("regnety_032", "regnety_040", r"\(13, 576\), .* \(regnety_032\), the model stages .*040"),
        ("regnetx_004", "regnetx_004_tv", r"384\)\] \(regnetx_004\), the model .*400\)\]"),
        ("regnetz_c16", "regnety_002", "not of the zoo"),
    ],
)
def test_another_network_is_named(theirs, ours, message):
    with torch.device("meta"):
        state = timm.create_model(theirs).state_dict()
        features = RegNetFeatures(ours)
    with pytest.raises(ValueError, match=message):
        weights.load(features, state)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_training_that_diverged_are_refused(value, state):
    state["s3.b2.conv1.bn.running_var"][3] = value
    with pytest.raises(ValueError, match=r"have NaN or infinite .* 1: s3\.b2\.conv1\.bn\.running_"):
        weights.load(RegNetFeatures("regnety_002"), state)


def test_a_broken_classifier_is_of_no_concern(state):
    state["head.fc.weight"][0, 0] = float("nan")
    weights.load(RegNetFeatures("regnety_002"), state)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_loaded_beside_the_backbone_is_finite_too(value):
    ours = smp.Unet("regnety_002", encoder_weights=None)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    theirs = smp.Unet("regnety_002", encoder_weights=None).state_dict()
    theirs["segmentation_head.0.bias"][0] = value
    with pytest.raises(ValueError, match=r"NaN or infinite .* in 1: segmentation_head\.0\.bias\."):
        weights.load(ours, theirs)
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, before[key])
    weights.load(ours.encoder, theirs)  # which takes nothing of the head


def test_batch_counters_may_be_missing(state):
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    features = RegNetFeatures("regnety_002")
    weights.load(features, old)
    assert torch.equal(features.s4.b7.conv3.bn.running_var, state["s4.b7.conv3.bn.running_var"])


def test_an_image_of_four_channels_has_no_order_to_flip(state):
    state["stem.conv.weight"] = torch.rand(32, 4, 3, 3)
    features = RegNetFeatures("regnety_002", in_channels=4)
    weights.load(features, state)
    pycls = weights.convert(state, "timm", "pycls", channel_order="BGR")
    with pytest.raises(ValueError, match="a stem of 4 channels cannot be flipped"):
        weights.load(features, pycls)
    weights.load(features, pycls, channel_order="RGB")
    assert torch.equal(features.stem.conv.weight, state["stem.conv.weight"])


def test_a_model_without_our_backbone_is_refused():
    with pytest.raises(ValueError, match="must have one RegNet of this package, got 0"):
        weights.load(torch.nn.Linear(1, 1), {})
    two = torch.nn.ModuleList([RegNetFeatures("regnetx_002"), RegNetFeatures("regnetx_002")])
    with pytest.raises(ValueError, match=r"got 2 \(0\., 1\.\); load into one of them"):
        weights.load(two, {})


def test_a_compiled_network_holds_one_regnet(state):
    features = RegNetFeatures("regnety_002")
    weights.load(torch.compile(features), state)
    assert_loaded(features, state)


# SMP


def test_a_compiled_segmenter_is_loaded_whole(randomize):
    theirs = randomize(smp.Unet("regnety_002", encoder_weights=None)).state_dict()
    ours = smp.Unet("regnety_002", encoder_weights=None)
    assert not weights.load(torch.compile(ours), theirs).dropped
    assert_loaded(ours, theirs)
    ours.encoder = torch.compile(RegNetFeatures("regnety_002"))
    weights.load(ours, theirs)
    assert torch.equal(ours.encoder.stem.bn.bias, theirs["encoder.stem.bn.bias"])


def compiled_inside(unet):
    unet.encoder, unet.decoder = torch.compile(unet.encoder), torch.compile(unet.decoder)
    return unet


@pytest.mark.parametrize(
    "wrap",
    [
        compiled_inside,
        torch.nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
        timm.utils.ModelEmaV3,
        lambda unet: torch.compile(torch.nn.DataParallel(unet)),
    ],
)
def test_a_wrapped_segmenter_is_loaded_whole_and_its_weights_elsewhere(wrap, randomize):
    theirs = randomize(smp.Unet("regnety_002", encoder_weights=None))
    state = theirs.state_dict()
    wrapped = wrap(smp.Unet("regnety_002", encoder_weights=None))
    assert not weights.load(wrapped, state).dropped
    plain = smp.Unet("regnety_002", encoder_weights=None)
    assert not weights.load(plain, wrapped.state_dict()).dropped
    assert_loaded(plain, state)


def test_the_weights_of_an_encoder_come_from_every_source(hub, state, tmp_path):
    weights.write_checkpoint(
        hub / "RegNetY-200MF_dds_8gpu.pyth", weights.convert(state, "timm", "pycls")
    )
    weights.write_checkpoint(tmp_path / "a.pth", weights.convert(state, "timm", "torchvision"))
    weights.write_checkpoint(hub / "regnety_002.pycls_in1k.safetensors", state)
    for source in ("pycls://RegNetY-200MF", str(tmp_path / "a.pth"), "imagenet", "pycls_in1k"):
        assert_loaded(smp.Unet("regnety_002", encoder_weights=source).encoder, state)


@pytest.mark.parametrize("name", ["tu-regnety_002", "timm-regnety_002", "tu-regnetz_b16"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_whole_segmenter_on_smps_own_encoder_predicts_the_same(name, randomize, tmp_path):
    theirs = randomize(smp.Unet(name, encoder_weights=None)).eval()
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "unet.ckpt")
    ours = smp.Unet(name.split("-")[1], encoder_weights=None).eval()
    report = weights.load(ours, tmp_path / "unet.ckpt")
    assert set(report.loaded) == set(ours.state_dict())
    assert not report.dropped
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-5, atol=1e-5)


def test_a_segmenter_under_the_name_of_a_training_module_is_loaded_whole(randomize):
    """As Lightning saves it: everything below `model.`."""
    theirs = randomize(smp.Unet("regnety_002", encoder_weights=None))
    state = {f"model.{k}": v for k, v in theirs.state_dict().items()} | {"loss.w": torch.ones(1)}
    ours = smp.Unet("regnety_002", encoder_weights=None)
    weights.load(ours, state)
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)


def test_a_segmenter_of_other_classes_is_refused_and_its_backbone_can_be_taken():
    theirs = smp.Unet("regnety_002", encoder_weights=None, classes=5).state_dict()
    ours = smp.Unet("regnety_002", encoder_weights=None, classes=2)
    with pytest.raises(ValueError, match=r"segmentation_head.*load\(model\.encoder, \.\.\.\)"):
        weights.load(ours, theirs)
    report = weights.load(ours.encoder, theirs)
    assert {name.split(".")[0] for name in report.dropped} == {"decoder", "segmentation_head"}
    assert torch.equal(ours.encoder.stem.bn.bias, theirs["encoder.stem.bn.bias"])


def test_a_detector_gives_its_backbone_to_a_segmenter(randomize):
    cfg = default_config()
    cfg.merge_from_file(str(config_path("detectron2/Base-RegNet-FPN.yaml")))
    cfg.MODEL.REGNET.NAME, cfg.MODEL.DEVICE = "regnety_002", "cpu"
    detector = randomize(build_model(cfg))
    unet = smp.Unet("regnety_002", encoder_weights=None)
    report = weights.load(unet, detector.state_dict())
    assert "backbone.fpn_lateral2.weight" in report.dropped
    own = detector.backbone.bottom_up.state_dict()
    for key, value in unet.encoder.state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(value, own[key])
