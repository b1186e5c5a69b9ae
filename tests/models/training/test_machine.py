"""The machine, as a reader of times needs it."""

import os

from models.training.machine import machine


def test_the_machine_is_its_cores_their_model_and_its_gpus() -> None:
    told = machine(gpus=["NVIDIA H200"])
    assert told.startswith(str(len(os.sched_getaffinity(0))))
    assert " core" in told
    assert told.endswith(", NVIDIA H200")
    assert machine().endswith(", no GPU")
