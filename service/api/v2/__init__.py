"""The Open Inference Protocol, version 2, over HTTP: tensors in, tensors out, as NVIDIA's and KServe's clients speak it."""
