"""ONNX graphs out of functional Keras models: parts translated by tf2onnx, parts written node by node."""
