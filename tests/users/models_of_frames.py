"""Keras models as users write them, that fall into a CNN for each frame and layers over time: the field's tutorials, written anew."""

# Each function is a model file of somebody's: what repeats between them is theirs.
from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

SIZE = 32
CLASSES = 4


def lrcn() -> keras.Model:
    """Long-term recurrent convolutional network: everything of a frame wrapped layer by layer, a fixed number of frames."""
    return keras.Sequential(
        [
            keras.Input((6, SIZE, SIZE, 3)),
            layers.TimeDistributed(layers.Conv2D(8, 3, padding="same", activation="relu")),
            layers.TimeDistributed(layers.MaxPooling2D(4)),
            layers.TimeDistributed(layers.Dropout(0.25)),
            layers.TimeDistributed(layers.Conv2D(16, 3, padding="same", activation="relu")),
            layers.TimeDistributed(layers.MaxPooling2D(4)),
            layers.TimeDistributed(layers.Flatten()),
            layers.LSTM(16),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )


def mobilenet_lstm() -> keras.Model:
    """Transfer learning: a whole application in one TimeDistributed, pixels scaled outside."""
    cnn = keras.applications.MobileNetV2(input_shape=(SIZE, SIZE, 3), include_top=False, weights=None, pooling="avg")
    cnn.trainable = False
    model = keras.Sequential([keras.Input((None, SIZE, SIZE, 3)), layers.TimeDistributed(cnn)])
    model.add(layers.LSTM(24, dropout=0.3, recurrent_dropout=0.2))
    model.add(layers.Dense(16, activation="relu"))
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(CLASSES, activation="softmax"))
    return model


def vgg_bilstm() -> keras.Model:
    """Violence detection: VGG16 for each frame, BatchNorm, a stack of bidirectional LSTMs, one sigmoid."""
    cnn = keras.applications.VGG16(input_shape=(SIZE, SIZE, 3), include_top=False, weights=None)
    clips = keras.Input((8, SIZE, SIZE, 3))
    x = layers.TimeDistributed(cnn)(clips)
    x = layers.TimeDistributed(layers.GlobalMaxPooling2D())(x)
    x = layers.BatchNormalization()(x)
    x = layers.Bidirectional(layers.LSTM(16, return_sequences=True))(x)
    x = layers.Bidirectional(layers.LSTM(8))(x)
    return keras.Model(clips, layers.Dense(1, activation="sigmoid")(layers.Dropout(0.5)(x)))


def cnn_gru_encoder() -> keras.Model:
    """The feature extractor of the Keras video classification example: a file of its own."""
    cnn = keras.applications.DenseNet121(include_top=False, weights=None, pooling="avg", input_shape=(SIZE, SIZE, 3))
    frames = keras.Input((SIZE, SIZE, 3))
    return keras.Model(frames, cnn(frames / 127.5 - 1.0), name="feature_extractor")


def cnn_gru_head() -> keras.Model:
    """Its sequence model, with the mask of padded frames as a second input."""
    features, mask = keras.Input((20, 1024)), keras.Input((20,), dtype="bool")
    x = layers.GRU(16, return_sequences=True)(features, mask=mask)
    x = layers.GRU(8)(x)
    x = layers.Dense(8, activation="relu")(layers.Dropout(0.4)(x))
    return keras.Model([features, mask], layers.Dense(CLASSES, activation="softmax")(x))


class PositionalEmbedding(layers.Layer):
    """As in the Keras example of video transformers."""

    def __init__(self, sequence_length: int, output_dim: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.position_embeddings = layers.Embedding(input_dim=sequence_length, output_dim=output_dim)
        self.sequence_length, self.output_dim = sequence_length, output_dim

    def build(self, input_shape: Any) -> None:
        self.position_embeddings.build(input_shape)

    def call(self, inputs: Any) -> Any:
        inputs = ops.cast(inputs, self.compute_dtype)
        positions = ops.arange(start=0, stop=ops.shape(inputs)[1], step=1)
        return inputs + self.position_embeddings(positions)


class TransformerEncoder(layers.Layer):
    def __init__(self, embed_dim: int, dense_dim: int, num_heads: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.attention = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim, dropout=0.3)
        self.dense_proj = keras.Sequential([layers.Dense(dense_dim, activation="gelu"), layers.Dense(embed_dim)])
        self.layernorm_1, self.layernorm_2 = layers.LayerNormalization(), layers.LayerNormalization()

    def call(self, inputs: Any, mask: Any = None) -> Any:
        attended = self.attention(inputs, inputs, attention_mask=mask)
        projected = self.layernorm_1(inputs + attended)
        return self.layernorm_2(projected + self.dense_proj(projected))


def video_transformer() -> keras.Model:
    """Layers of the user's own after the CNN."""
    cnn = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Conv2D(12, 5, strides=3, activation="relu"),
            layers.Conv2D(24, 3, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
        ]
    )
    clips = keras.Input((5, SIZE, SIZE, 3))
    x = layers.TimeDistributed(cnn)(layers.Rescaling(1 / 255)(clips))
    x = PositionalEmbedding(5, 24, name="frame_position_embedding")(x)
    x = TransformerEncoder(24, 12, 2, name="transformer_layer")(x)
    x = layers.Dropout(0.5)(layers.GlobalMaxPooling1D()(x))
    return keras.Model(clips, layers.Dense(CLASSES, activation="softmax")(x))


class FrameAttention(layers.Layer):
    """Attention over time as it stands in a hundred notebooks."""

    def build(self, input_shape: Any) -> None:
        self.W = self.add_weight(shape=(input_shape[-1], 1), initializer="glorot_uniform", name="att_weight")
        self.b = self.add_weight(shape=(1,), initializer="zeros", name="att_bias")

    def call(self, x: Any) -> Any:
        e = ops.tanh(ops.matmul(x, self.W) + self.b)
        a = ops.softmax(e, axis=1)
        return ops.sum(x * a, axis=1)


def cnn_bilstm_attention() -> keras.Model:
    """Xception + Bi-LSTM + attention, as for fights in surveillance video, with a small CNN."""
    clips = keras.Input((None, SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 127.5, -1)(clips)
    for filters in (8, 16):
        x = layers.TimeDistributed(layers.SeparableConv2D(filters, 3, strides=2, use_bias=False))(x)
        x = layers.TimeDistributed(layers.BatchNormalization())(x)
        x = layers.TimeDistributed(layers.Activation("relu"))(x)
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)
    x = layers.Bidirectional(layers.LSTM(12, return_sequences=True))(x)
    return keras.Model(clips, layers.Dense(2, activation="softmax")(FrameAttention(name="attention")(x)))


def attention_output() -> keras.Model:
    """Additive attention whose weights are a second output, called attention."""
    clips = keras.Input((None, SIZE, SIZE, 3))
    x = layers.TimeDistributed(_small_cnn())(clips)
    x = layers.GRU(16, return_sequences=True)(x)
    weights = layers.Softmax(axis=1, name="attention")(layers.Dense(1)(layers.Dense(8, activation="tanh")(x)))
    pooled = ops.sum(x * weights, axis=1)
    return keras.Model(clips, [layers.Dense(CLASSES, activation="softmax", name="answer")(pooled), weights])


def temporal_convolutions() -> keras.Model:
    """A TCN over features: dilated causal convolutions with residuals written as operators."""
    clips = keras.Input((None, SIZE, SIZE, 3))
    x = layers.TimeDistributed(_small_cnn(16))(clips)
    for dilation in (1, 2, 4):
        y = layers.Conv1D(16, 3, padding="causal", dilation_rate=dilation, activation="relu")(x)
        y = layers.SpatialDropout1D(0.1)(y)
        x = x + y
    pooled = layers.Concatenate()([layers.GlobalAveragePooling1D()(x), layers.GlobalMaxPooling1D()(x)])
    return keras.Model(clips, layers.Dense(CLASSES, activation="softmax")(pooled))


def multi_head() -> keras.Model:
    """Self-attention with residual additions over the frames' features, then the average."""
    clips = keras.Input((None, SIZE, SIZE, 3))
    x = layers.TimeDistributed(_small_cnn(16))(clips)
    attended = layers.MultiHeadAttention(num_heads=2, key_dim=8)(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, attended]))
    x = layers.LayerNormalization()(x + layers.Dense(16)(layers.Dense(32, activation="relu")(x)))
    return keras.Model(clips, layers.Dense(CLASSES, activation="softmax")(layers.GlobalAveragePooling1D()(x)))


def bidirectional_of_cells() -> keras.Model:
    """RNN over cells, merged by their mean, with a GRU that resets before."""
    clips = keras.Input((None, SIZE, SIZE, 3))
    x = layers.TimeDistributed(_small_cnn())(clips)
    x = layers.Bidirectional(layers.RNN(layers.LSTMCell(12), return_sequences=True), merge_mode="ave")(x)
    x = layers.RNN([layers.GRUCell(10, reset_after=False), layers.LSTMCell(8)])(x)
    return keras.Model(clips, layers.Dense(CLASSES, activation="softmax")(x))


def simple_rnn_backwards() -> keras.Model:
    """A SimpleRNN that reads from the last frame to the first, then an LSTM."""
    clips = keras.Input((None, SIZE, SIZE, 3))
    x = layers.TimeDistributed(_small_cnn())(clips)
    x = layers.SimpleRNN(12, go_backwards=True, return_sequences=True)(x)
    return keras.Model(clips, layers.Dense(CLASSES, activation="softmax")(layers.LSTM(8)(x)))


def masked() -> keras.Model:
    """Masking for clips that were padded in training."""
    clips = keras.Input((None, SIZE, SIZE, 3))
    x = layers.TimeDistributed(_small_cnn())(clips)
    x = layers.LSTM(12)(layers.Masking(mask_value=0.0)(x))
    return keras.Model(clips, layers.Dense(CLASSES, activation="softmax")(x))


def each_step() -> keras.Model:
    """Frame-wise labels: an answer for each step."""
    clips = keras.Input((None, SIZE, SIZE, 3))
    x = layers.Bidirectional(layers.GRU(8, return_sequences=True))(layers.TimeDistributed(_small_cnn())(clips))
    return keras.Model(clips, layers.TimeDistributed(layers.Dense(CLASSES, activation="softmax"))(x))


def multi_label() -> keras.Model:
    """Several answers may be right: independent sigmoids."""
    clips = keras.Input((None, SIZE, SIZE, 3))
    x = layers.LSTM(12)(layers.TimeDistributed(_small_cnn())(clips))
    return keras.Model(clips, layers.Dense(CLASSES, activation="sigmoid")(x))


def logits() -> keras.Model:
    """Trained with from_logits=True; a temperature before the end."""
    clips = keras.Input((None, SIZE, SIZE, 3))
    x = layers.LSTM(12)(layers.TimeDistributed(_small_cnn())(clips))
    return keras.Model(clips, layers.Dense(CLASSES)(x) / 0.7)


class VideoClassifier(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.scale = layers.Rescaling(1 / 255)
        self.cnn = layers.TimeDistributed(_small_cnn())
        self.lstm = layers.LSTM(12)
        self.classifier = layers.Dense(CLASSES, activation="softmax")

    def call(self, clips: Any, training: bool | None = None) -> Any:
        return self.classifier(self.lstm(self.cnn(self.scale(clips)), training=training))


def subclassed() -> keras.Model:
    """A subclass of keras.Model with its layers in __init__ and its order in call."""
    model = VideoClassifier()
    model(ops.zeros((1, 4, SIZE, SIZE, 3)))
    return model


def folded_by_hand() -> keras.Model:
    """Without TimeDistributed: time folded into the batch by reshape."""
    clips = keras.Input((6, SIZE, SIZE, 3))
    x = ops.reshape(clips, (-1, SIZE, SIZE, 3))
    x = _small_cnn(16)(x)
    x = ops.reshape(x, (-1, 6, 16))
    return keras.Model(clips, layers.Dense(CLASSES, activation="softmax")(layers.LSTM(12)(x)))


def preprocessing_inside() -> keras.Model:
    """Preprocessing layers at the front, augmentation among them, on grey frames."""
    clips = keras.Input((None, 40, 40, 1))
    front = keras.Sequential(
        [
            keras.Input((40, 40, 1)),
            layers.Rescaling(1 / 255),
            layers.RandomFlip("horizontal"),
            layers.CenterCrop(SIZE, SIZE),
            layers.Normalization(mean=0.4, variance=0.09),
        ]
    )
    x = layers.TimeDistributed(front)(clips)
    x = layers.TimeDistributed(_small_cnn(channels=1))(x)
    return keras.Model(clips, layers.Dense(CLASSES, activation="softmax")(layers.GRU(12)(x)))


def two_poolings() -> keras.Model:
    """A CNN with two poolings side by side, an LSTM's last step beside its mean, several Dense layers."""
    frame = keras.Input((SIZE, SIZE, 3))
    y = layers.Conv2D(12, 3, strides=2, activation="swish")(layers.Rescaling(1 / 255)(frame))
    both = layers.Concatenate()([layers.GlobalAveragePooling2D()(y), layers.GlobalMaxPooling2D()(y)])
    clips = keras.Input((None, SIZE, SIZE, 3))
    x = layers.LSTM(12, return_sequences=True)(layers.TimeDistributed(keras.Model(frame, both))(clips))
    x = layers.Concatenate()([x[:, -1], layers.GlobalAveragePooling1D()(x)])
    for units in (16, 8):
        x = layers.Dropout(0.3)(layers.LeakyReLU(0.1)(layers.Dense(units)(x)))
    return keras.Model(clips, layers.Dense(CLASSES, activation="softmax")(x))


def flattened_time() -> keras.Model:
    """No recurrence at all: features of a fixed number of frames, flattened."""
    clips = keras.Input((4, SIZE, SIZE, 3))
    x = layers.Flatten()(layers.TimeDistributed(_small_cnn())(clips))
    return keras.Model(clips, layers.Dense(CLASSES, activation="softmax")(layers.Dense(16, activation="relu")(x)))


def image_mobilenet() -> keras.Model:
    """A classifier of single images whose preprocessing is inside."""
    return keras.applications.MobileNetV3Small(
        input_shape=(SIZE, SIZE, 3), weights=None, classes=CLASSES, include_preprocessing=True
    )


def image_cnn() -> keras.Model:
    """The first CNN of everybody, on grey digits."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )


def _small_cnn(filters: int = 12, *, channels: int = 3) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, channels)),
            layers.Conv2D(8, 5, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
        ]
    )
