"""How pixels were scaled in training is asked for, and the right answer stands first among those that are shown."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from keras import layers

from models.errors import ExportRefused
from models.export.normalization import Channels, Normalization
from models.readings.activations import Seen
from models.readings.ask import normalization_of
from models.readings.candidates import candidates
from models.readings.flags import Reading, input_of, sampling_of
from models.readings.sample import sample_clips
from models.readings.subject import KerasSubject, check_labels, probabilities
from models.zoo.efficientnet_lite import efficientnet_lite0
from service.bundle.manifest import Input, Resize, Sampling

LABELS = ("blue", "green", "red")


def photo(seed: int) -> np.ndarray:
    """`[32, 32, 3]` RGB: smooth fields, warm on average as photographs are, with some noise."""
    random = np.random.default_rng(seed)
    field = cv2.resize(random.random((4, 4, 3)).astype(np.float32), (32, 32), interpolation=cv2.INTER_CUBIC)
    shade = np.float32([0.9, 0.65, 0.4]) * field * random.uniform(0.5, 1.2) + random.normal(0, 0.03, (32, 32, 3))
    return np.clip(255 * shade, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos that are not those whose statistics the models hold, with a file among them that cannot be decoded."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(24):
        cv2.imwrite(str(root / f"{number:02d}.png"), photo(1000 + number)[..., ::-1])
    (root / "00.png").write_bytes(b"no picture")
    return root


def trained(preprocess: str, color: Channels, *, clips: bool, batchnorm: bool = True) -> keras.Model:
    """A CNN whose BatchNormalization holds the statistics of 64 photos fed by this reading, as training leaves them."""
    keras.utils.set_random_seed(3)
    channels = 1 if color == "gray" else 3
    frame = keras.Input((32, 32, channels))
    x = layers.Conv2D(12, 3, strides=2, name="first")(frame)
    x = layers.BatchNormalization(name="norm", momentum=0.0)(x) if batchnorm else x
    cnn = keras.Model(frame, layers.GlobalAveragePooling2D()(layers.ReLU()(x)))
    pixels = np.stack([photo(number) for number in range(64)])
    if channels == 1:
        pixels = np.stack([cv2.cvtColor(each, cv2.COLOR_RGB2GRAY)[..., None] for each in pixels])
    cnn(Normalization.parse(preprocess, color=color).apply(pixels), training=True)
    dense = layers.Dense(3, activation="softmax", kernel_initializer="he_normal")
    if not clips:
        return keras.Model(frame, dense(cnn(frame)))
    video = keras.Input((None, 32, 32, channels))
    return keras.Model(video, dense(layers.GRU(4)(layers.TimeDistributed(cnn)(video))))


def refusal(model: keras.Model, folder: Path, reading: Reading | None = None) -> str:
    subject, reading = KerasSubject(model), reading or Reading()
    spec, sampling = input_of(subject.frame_shape, reading), sampling_of(subject.frames, reading)
    with pytest.raises(ExportRefused) as refused:
        normalization_of(subject, reading, spec=spec, sampling=sampling, labels=LABELS, calibration=folder)
    return str(refused.value)


def shown(text: str) -> list[str]:
    return re.findall(r"--preprocess \S+ --color \S+(?=  )", text)


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize(
    ("preprocess", "color"),
    [
        ("none", "rgb"),
        ("0/255", "rgb"),
        ("0/255", "bgr"),
        ("tf", "rgb"),
        ("tf", "bgr"),
        ("torch", "rgb"),
        ("caffe", "bgr"),
        ("tf", "gray"),
    ],
)
def test_the_reading_of_the_training_stands_first(folder: Path, preprocess: str, color: Channels, clips: bool) -> None:
    text = refusal(trained(preprocess, color, clips=clips), folder)
    first, *others = shown(text)
    assert first == f"--preprocess {preprocess} --color {color}", text
    assert len(others) == 2
    assert "running mean and variance of 'norm'" in text


def test_the_table_holds_what_the_model_answers_under_each_reading(folder: Path) -> None:
    model = trained("tf", "rgb", clips=False)
    text = refusal(model, folder)
    assert "give --preprocess none, caffe, tf, torch or MEAN/STD" in text.splitlines()[0]
    (line,) = (each for each in text.splitlines() if "--preprocess tf --color rgb" in each)
    name = re.search(r"says to (\S+) under each", text)
    assert name is not None
    pixels = cv2.imread(str(folder / name[1]))[None, ..., ::-1].astype(np.float32)
    row = np.asarray(model(pixels / 127.5 - 1, training=False))[0]
    best = int(row.argmax())
    assert re.search(rf"off by \d\.\d+ +{LABELS[best]} {row[best]:.2f}, ", line), (line, row)


def test_without_a_batchnorm_the_order_is_the_customary_one_and_the_table_says_so(folder: Path) -> None:
    text = refusal(trained("tf", "rgb", clips=False, batchnorm=False), folder)
    assert shown(text) == [f"--preprocess {each} --color rgb" for each in ("0/255", "tf", "none")]
    assert "no BatchNormalization tells which is right" in text
    assert "untrained" not in text


def test_a_batchnorm_that_saw_no_training_tells_nothing(folder: Path) -> None:
    model = trained("tf", "rgb", clips=True)
    norm = next(layer for layer in model._flatten_layers() if layer.name == "norm")
    norm.moving_mean.assign(np.zeros(12))
    norm.moving_variance.assign(np.ones(12))
    text = refusal(model, folder)
    assert "the running mean and variance of 'norm' are untrained (0 and 1), so no BatchNormalization tells" in text
    assert "off by" not in text


def test_on_grey_footage_rgb_comes_first_and_the_table_says_that_the_order_of_colors_is_open(tmp_path: Path) -> None:
    for number in range(8):
        grey = cv2.cvtColor(photo(number), cv2.COLOR_RGB2GRAY)
        grey[number, 0] += 1
        tinted = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
        tinted[:2, :, number % 3] //= 2  # or both orders would be the same to the last bit
        cv2.imwrite(str(tmp_path / f"{number}.png"), tinted)
    for color in ("rgb", "bgr"):
        text = refusal(trained("tf", color, clips=False), tmp_path)
        first, second, *_ = shown(text)
        assert (first.split()[-1], second.split()[-1]) == ("rgb", "bgr"), text
        assert "they cannot tell rgb from bgr here" in text


def test_the_family_of_the_network_comes_first_where_nothing_else_tells(folder: Path) -> None:
    frame = keras.Input((32, 32, 3))
    x = layers.Conv2D(2, 3, name="block5_conv3")(layers.Conv2D(2, 3, name="block1_conv1")(frame))  # a VGG's names
    model = keras.Model(frame, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x)))
    text = refusal(model, folder)
    assert shown(text)[0] == "--preprocess caffe --color bgr"
    assert "the layers are those of VGG of keras.applications, which takes --preprocess caffe" in text


def test_a_color_that_was_said_is_not_asked_again(folder: Path) -> None:
    text = refusal(trained("0/255", "rgb", clips=False), folder, Reading(color="rgb"))
    assert [each for each in shown(text) if "bgr" in each] in ([], ["--preprocess caffe --color bgr"])


def test_without_a_clip_the_sentence_stands_alone_and_says_why(tmp_path: Path) -> None:
    text = refusal(trained("tf", "rgb", clips=False), tmp_path)
    assert "\n" not in text
    assert "no clip could be tried" in text
    (tmp_path / "a.png").write_bytes(b"no picture")
    text = refusal(trained("tf", "rgb", clips=False), tmp_path)
    assert f"can be decoded ({tmp_path / 'a.png'}: " in text


def test_a_flag_or_a_layer_answers_the_question(folder: Path) -> None:
    frame = keras.Input((32, 32, 3))
    x = layers.Conv2D(2, 3)(layers.Rescaling(1 / 255)(frame))
    model = keras.Model(frame, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    subject, reading = KerasSubject(model), Reading(color="bgr")
    given = {"spec": input_of(subject.frame_shape, reading), "sampling": sampling_of(None, reading), "labels": LABELS}
    found = normalization_of(subject, reading, **given, calibration=folder)  # type: ignore[arg-type]
    assert found == Normalization("bgr")
    flagged = normalization_of(subject, Reading(preprocess="tf"), **given, calibration=folder)  # type: ignore[arg-type]
    assert flagged == Normalization("rgb", (127.5,), (127.5,))


@pytest.mark.parametrize("preprocess", ["caffe", "torch"])
def test_three_means_for_one_channel_are_refused(preprocess: str) -> None:
    with pytest.raises(ExportRefused, match="three channels of a colour image, the model takes one"):
        Normalization.parse(preprocess, color="gray")


def test_labels_that_do_not_fit_the_outputs_are_refused() -> None:
    subject = KerasSubject(trained("tf", "rgb", clips=True))
    check_labels(subject, LABELS)
    with pytest.raises(ExportRefused, match="tells 3 classes apart, 2 labels are given"):
        check_labels(subject, LABELS[:2])


def test_scores_are_shown_as_probabilities() -> None:
    scores = [np.float32([[2.0, -1.0, 0.0]])]
    np.testing.assert_allclose(probabilities(scores, LABELS, None).sum(axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(probabilities(scores, LABELS, "sigmoid")[0, 0], 1 / (1 + np.exp(-2)), atol=1e-6)
    np.testing.assert_allclose(probabilities([np.float32([[0.25]])], ("no", "yes"), None), [[0.75, 0.25]])
    steps = [np.float32([[[0.2, 0.3, 0.5], [0.4, 0.5, 0.1]]])]
    np.testing.assert_allclose(probabilities(steps, LABELS, None), [[0.3, 0.4, 0.3]], atol=1e-6)


@pytest.mark.data
@pytest.mark.parametrize(("preprocess", "color"), [("tf", "rgb"), ("0/255", "bgr"), ("torch", "rgb"), ("caffe", "bgr")])
def test_a_network_trained_on_imagenet_knows_its_reading_by_photographs(
    data: Path, preprocess: str, color: Channels
) -> None:
    """Real weights and real running statistics; for another reading than its own the network is fed as if trained so."""
    network = efficientnet_lite0(until="block0", height=96, width=96)
    bare = KerasSubject(keras.Model(network.get_layer("normalise").output, network.output))
    truth = Normalization.parse(preprocess, color=color)

    def look(fed: np.ndarray) -> Seen | None:
        pixels = fed * np.array(truth.std) + np.array(truth.mean)
        return bare.look(((pixels[..., ::-1] if color == "bgr" else pixels) - 127).astype(np.float32) / 128)

    spec = Input(height=96, width=96, resize=Resize(rule="crop", short_side=96))
    clips = sample_clips(data / "imagenet_photos", spec=spec, sampling=Sampling(frames=1), count=16)
    found = candidates([frames for _, frames in clips], look=look, color=None, expected=None)
    assert (found[0].preprocess, found[0].color) == (preprocess, color)
    assert found[0].distance is not None
    assert found[0].distance < 0.1
