"""Feature networks from files in all layouts, and files that are none."""

import numpy as np
import pytest
import safetensors.numpy

from learned_opt.optimizees import feature_files

VGG = {"conv1_1": (3, 64), "conv1_2": (64, 64), "conv2_1": (64, 128)}
TORCH_INDEX = {"conv1_1": 0, "conv1_2": 2, "conv2_1": 5}
LAYERS = {"style": {"conv1_1": 1.0}, "content": {"conv2_1": 2.0}}


def _vgg(seed=0):
    draws = np.random.default_rng(seed)
    return {
        name: (
            draws.normal(size=(3, 3, *channels)).astype(np.float32),
            draws.normal(size=channels[1]).astype(np.float32),
        )
        for name, channels in VGG.items()
    }


def _torch(arrays):
    found = {}
    for name, (kernel, bias) in arrays.items():
        found[f"features.{TORCH_INDEX[name]}.weight"] = kernel.transpose(3, 2, 0, 1).copy()
        found[f"features.{TORCH_INDEX[name]}.bias"] = bias
    return found


def _keras(arrays):
    found = {}
    for name, (kernel, bias) in arrays.items():
        block, number = name[4], name[6]
        found[f"block{block}_conv{number}/kernel"] = kernel
        found[f"block{block}_conv{number}/bias"] = bias
    return found


def test_all_layouts_of_vgg_hold_the_same(tmp_path):
    arrays = _vgg()
    safetensors.numpy.save_file(_torch(arrays), tmp_path / "torch.safetensors")
    np.savez(tmp_path / "keras.npz", **_keras(arrays))
    torch = feature_files.read_features(tmp_path / "torch.safetensors", **LAYERS)
    keras = feature_files.read_features(tmp_path / "keras.npz", **LAYERS)
    for name, (kernel, bias) in arrays.items():
        for net in (torch, keras):
            np.testing.assert_array_equal(net.weights[f"{name}/kernel"], kernel)
            np.testing.assert_array_equal(net.weights[f"{name}/bias"], bias)
    assert torch.network.names() == keras.network.names() == list(VGG)
    assert (torch.network.is_bgr, keras.network.is_bgr) == (False, True)
    assert torch.content == {"conv2_1": 2.0}


def test_torch_counts_as_in_its_sequence_of_layers():
    """As torchvision prints vgg16 and vgg19: convolutions of the fourth block."""
    of_16 = feature_files._layout("", {"features.0.weight": 0})
    of_19 = feature_files._layout("", {"features.0.weight": 0, "features.16.weight": 0})
    names = of_16.network.names()
    assert len(names) == 13
    assert names[-1] == "conv5_3"
    indices = of_16.key.indices
    assert [indices[name] for name in ("conv3_3", "conv4_1", "conv5_3")] == [14, 17, 28]
    indices = of_19.key.indices
    assert [indices[name] for name in ("conv3_4", "conv4_1", "conv5_4")] == [16, 19, 34]


def test_squeezenet(tmp_path):
    arrays = {}
    whole = feature_files._squeezenet().up_to(["fire2"])
    for conv in whole.convolutions():
        arrays[f"{conv.name}/kernel"] = np.ones(
            (conv.size, conv.size, conv.inputs, conv.outputs), np.float32
        )
        arrays[f"{conv.name}/bias"] = np.zeros(conv.outputs, np.float32)
    np.savez(tmp_path / "squeeze.npz", **arrays)
    net = feature_files.read_features(
        tmp_path / "squeeze.npz", style={"conv1": 1.0}, content={"fire2": 1.0}
    )
    assert set(net.weights) == set(arrays)
    with pytest.raises(ValueError, match="lacks fire3/squeeze1x1/kernel, which the layer fire3"):
        feature_files.read_features(tmp_path / "squeeze.npz")


def test_files_that_are_wrong_are_told_in_one_line(tmp_path):
    arrays = _torch(_vgg())

    def told(match, error=ValueError, name="a.npz", **layers):
        with pytest.raises(error, match=match) as found:
            feature_files.read_features(tmp_path / name, **(layers or LAYERS))
        assert "\n" not in str(found.value)

    def saved(**changes):
        np.savez(tmp_path / "a.npz", **{**arrays, **changes})

    told("no file of features", FileNotFoundError)
    saved(**{"features.5.bias": np.zeros(3, np.float32)})
    told(r"features\.5\.bias in .* must have shape \(128,\), got \(3,\)")
    saved(**{"features.5.bias": np.full(128, np.nan, np.float32)})
    told("must be finite floating-point numbers")
    saved()
    told("unknown layer 'conv9_1'", style={"conv9_1": 1.0}, content=None)
    told(r"lacks features\.7\.weight", style={"conv2_2": 1.0}, content=None)
    np.savez(tmp_path / "a.npz", something=np.zeros(3))
    told("no layout that is known here.*it has something")
    for name in ("b.npz", "b.safetensors"):
        (tmp_path / name).write_bytes(b"no arrays at all")
        told("is damaged, or no", name=name)
