"""A Keras model becomes two ONNX graphs, an encoder and a head, and a bundle around them."""
