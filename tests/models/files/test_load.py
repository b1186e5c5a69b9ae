"""A user's file as a Keras 3 model: what it may hold, what runs and what never does."""

from __future__ import annotations

import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from models.errors import ExportRefused
from models.files.load import load_keras
from models.files.model_code import ModelCode

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.float32)


def small() -> keras.Model:
    keras.utils.set_random_seed(4)
    pixels = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3, activation="relu", name="conv")(layers.Rescaling(1 / 255)(pixels))
    return keras.Model(
        pixels, layers.Dense(2, activation="softmax", name="classes")(layers.GlobalAveragePooling2D()(x))
    )


def same(model: keras.Model, other: keras.Model) -> bool:
    return bool(np.array_equal(np.asarray(model(PIXELS)), np.asarray(other(PIXELS))))


@pytest.mark.parametrize(
    ("saved", "named"), [("m.keras", "m.keras"), ("m.h5", "m.h5"), ("m.keras", "m.zip"), ("m.h5", "m.keras")]
)
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_files_of_keras_3_are_read_whatever_their_name(tmp_path: Path, saved: str, named: str) -> None:
    model = small()
    model.save(tmp_path / saved)
    (tmp_path / saved).rename(tmp_path / named)
    assert same(load_keras(tmp_path / named), model)


def with_lambda(file: Path) -> None:
    pixels = keras.Input((8, 8, 3))
    x = layers.Lambda(lambda values: values / 255.0, name="to_unit")(pixels)
    keras.Model(pixels, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))).save(file)


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_a_lambda_is_refused_by_name_and_runs_under_trust_only(tmp_path: Path, name: str) -> None:
    with_lambda(tmp_path / name)
    with pytest.raises(
        ExportRefused, match=r"the Lambda layer 'to_unit', whose code would run.*Rescaling for x / 255.*--trust"
    ):
        load_keras(tmp_path / name)
    trusted = load_keras(tmp_path / name, trust=True)
    assert [layer.name for layer in trusted.layers if isinstance(layer, layers.Lambda)] == ["to_unit"]


def test_a_file_cut_short_is_refused_in_one_sentence(tmp_path: Path) -> None:
    small().save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as whole, zipfile.ZipFile(tmp_path / "bad.keras", "w") as broken:
        for name in whole.namelist():
            content = whole.read(name)
            broken.writestr(name, content[: len(content) // 2] if name.endswith(".h5") else content)
    with pytest.raises(ExportRefused, match=r"bad.keras cannot be loaded \(.*save it again") as refused:
        load_keras(tmp_path / "bad.keras")
    assert "\n" not in str(refused.value)
    with zipfile.ZipFile(tmp_path / "torn.keras", "w") as broken:
        broken.writestr("metadata.json", '{"keras_version": "3.1.0"}')
        broken.writestr("config.json", '{"class_name": ')
    with pytest.raises(ExportRefused, match="whose description is no JSON"):
        load_keras(tmp_path / "torn.keras")


CODE = """
import keras
from neighbour import UNITS

class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x

def build_model():
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(UNITS, 3, activation="relu", name="conv")(keras.layers.Rescaling(1 / 255)(pixels))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(pixels, keras.layers.Dense(2, activation="softmax", name="classes")(x))

def wrong():
    return build_model().layers[-1]

def fails():
    raise RuntimeError("no data")

def leaves():
    raise SystemExit(0)

class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.classes = keras.layers.Dense(2)

    def call(self, x):
        return self.classes(x)

class Ready(Own):
    def __init__(self):
        super().__init__()
        self(keras.ops.zeros((1, 8)))

def unbuilt():
    return keras.Sequential([keras.layers.Dense(2)])
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("UNITS = 3\n")
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path / "mine.py"


def test_code_runs_under_trust_only(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nmodel = None\n"
    )
    with pytest.raises(ExportRefused, match=r"would run the code in .*mine.py; add --trust if you trust it"):
        ModelCode.parse(str(tmp_path / "mine.py"), trust=False)
    assert not (tmp_path / "ran").exists()
    ModelCode.parse(str(tmp_path / "mine.py"), trust=True).open()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["m.weights.h5", "renamed.bin"])
def test_weights_alone_go_into_what_the_code_builds(tmp_path: Path, code: Path, name: str) -> None:
    model = small()
    model.save_weights(tmp_path / "m.weights.h5")
    (tmp_path / "m.weights.h5").rename(tmp_path / name)
    with pytest.raises(
        ExportRefused, match=r"holds weights and no layers; give the code that builds the model with --model-code"
    ):
        load_keras(tmp_path / name)
    assert same(load_keras(tmp_path / name, code=ModelCode.parse(str(code), trust=True), trust=True), model)


def test_weights_of_keras_2_go_into_what_the_code_builds_by_the_names_of_its_layers(tmp_path: Path, code: Path) -> None:
    model, file = small(), tmp_path / "old.h5"
    with h5py.File(file, "w") as content:
        content.attrs["layer_names"] = ["conv", "classes"]
        for name in ("conv", "classes"):
            layer, group = model.get_layer(name), content.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{each}:0" for each in ("kernel", "bias")]
            for each, value in zip(("kernel", "bias"), layer.get_weights(), strict=True):
                group[f"{name}/{each}:0"] = value
    opened = ModelCode.parse(str(code), trust=True)
    assert same(load_keras(file, code=opened, trust=True), model)
    with h5py.File(file, "a") as content:
        content.attrs["layer_names"] = ["classes", "conv"]
    with pytest.raises(ExportRefused, match="stand in another order"):
        load_keras(file, code=opened, trust=True)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, code: Path) -> None:
    keras.Sequential([keras.Input((3,)), layers.Dense(7)]).save_weights(tmp_path / "other.weights.h5")
    opened = ModelCode.parse(str(code), trust=True)
    with pytest.raises(
        ExportRefused,
        match=r"the weights in .*other.weights.h5 do not fit the model '\w+' \(the file alone has dense\S* \[3, 7\] \[7\]; "
        r"the model alone has conv \[3, 3, 3, 3\] \[3\], classes \[3, 2\] \[2\]\)",
    ):
        load_keras(tmp_path / "other.weights.h5", code=opened, trust=True)
    with h5py.File(tmp_path / "old.h5", "w") as content:
        content.attrs["layer_names"] = ["conv", "classes"]
        for name, shape in (("conv", (5, 5, 3, 3)), ("classes", (3, 2))):
            group = content.create_group(name)
            group.attrs["weight_names"] = [f"{name}/kernel:0", f"{name}/bias:0"]
            group[f"{name}/kernel:0"], group[f"{name}/bias:0"] = np.zeros(shape), np.zeros(shape[-1])
    with pytest.raises(
        ExportRefused, match=r"\(the file alone has conv \[5, 5, 3, 3\] \[3\]; the model alone has conv \[3, 3"
    ):
        load_keras(tmp_path / "old.h5", code=opened, trust=True)


def test_a_class_that_calls_itself_once_takes_weights(tmp_path: Path, code: Path) -> None:
    opened = ModelCode.parse(f"{code}:Ready", trust=True)
    model = opened.open().model()
    model.save_weights(tmp_path / "m.weights.h5")
    rows = np.ones((1, 8), np.float32)
    np.testing.assert_array_equal(load_keras(tmp_path / "m.weights.h5", code=opened, trust=True)(rows), model(rows))


@pytest.mark.parametrize(
    ("suffix", "saying"),
    [
        (":wrong", "gives a Dense; it must give a keras.Model"),
        (":fails", "the function fails when called without arguments: RuntimeError: no data"),
        (":unbuilt", "gives a model that was not built"),
        (":absent", r"has no absent; name the function .* \(it defines build_model, wrong,"),
        (":leaves", r"the function fails .*: it ends the program \(sys.exit\(0\)\)"),
        (":Own", r"a Own has no weights before its first call; give a function that makes it and calls it once"),
    ],
)
def test_code_that_gives_no_model_is_refused(tmp_path: Path, code: Path, suffix: str, saying: str) -> None:
    small().save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ExportRefused, match=saying):
        load_keras(tmp_path / "m.weights.h5", code=ModelCode.parse(f"{code}{suffix}", trust=True), trust=True)


def test_code_that_is_not_there_or_fails_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="is no file"):
        ModelCode.parse(str(tmp_path / "absent.py"), trust=True)
    (tmp_path / "bad.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(
        ExportRefused, match=r"bad.py fails: ModuleNotFoundError: No module named 'nothing_of_that_name'"
    ):
        ModelCode.parse(str(tmp_path / "bad.py"), trust=True).open()
    (tmp_path / "main.py").write_text("import sys\nsys.exit()\n")
    with pytest.raises(ExportRefused, match=r"main.py fails: it ends the program \(sys.exit\(\)\); take that out"):
        ModelCode.parse(str(tmp_path / "main.py"), trust=True).open()


def test_a_layer_of_ones_own_is_found_in_the_code(tmp_path: Path, code: Path) -> None:
    opened = ModelCode.parse(str(code), trust=True)
    pixels = keras.Input((8, 8, 3))
    x = opened.open().custom["Doubled"](name="twice")(pixels)
    model = keras.Model(pixels, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    model.save(tmp_path / "own.keras")
    with pytest.raises(
        ExportRefused, match=r"layer 'twice' of .*own.keras needs Doubled.*--model-code FILE.py --trust"
    ):
        load_keras(tmp_path / "own.keras")
    assert same(load_keras(tmp_path / "own.keras", code=opened), model)


NESTED = """
import keras
from keras import layers

class Nest(keras.Layer):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.blocks = [[layers.Dense(2)], [layers.Dense(2)]]

    def build(self, shape):
        for (block,) in self.blocks:
            block.build(shape)

    def call(self, rows):
        return self.blocks[0][0](rows) + self.blocks[1][0](rows)

rows = keras.Input((3,))
model = keras.Model(rows, Nest(name="nest")(rows))
"""


def test_weights_that_keras_would_leave_random_with_a_warning_are_refused(tmp_path: Path) -> None:
    """Files of some versions of Keras lack the layers in lists of lists; Keras warns and goes on with random weights."""
    (tmp_path / "nested.py").write_text(NESTED)
    code = ModelCode.parse(str(tmp_path / "nested.py"), trust=True)
    file = tmp_path / "m.weights.h5"
    model = code.open().model()
    model.save_weights(file)
    loaded = load_keras(file, code=code, trust=True)
    rows = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(loaded(rows), model(rows))
    with h5py.File(file, "a") as content:
        blocks = content["layers/nest/blocks"]
        for name in list(blocks):
            del blocks[name]
    with pytest.raises(
        ExportRefused,
        match=r"do not fit the model .*the file alone has nothing; the model alone has dense\S* \[3, 2\] \[2\], dense",
    ):
        load_keras(file, code=code, trust=True)
