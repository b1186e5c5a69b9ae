"""One GPU through PyCUDA: its primary context, streams, and buffers that exist on both sides."""

from __future__ import annotations

import atexit
import importlib
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import DeviceFull, DeviceLost, EngineError, EngineUnavailable

logger = logging.getLogger(__name__)

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: never waits for the default stream
_devices: dict[int, Device] = {}
_opening = threading.Lock()


class Device:
    """The GPU of one CUDA ordinal. Everything that touches it stands in a `with device.current():`.

    The primary context is retained once for the life of the process: PyCUDA's detach() leaves the context that it releases
    current on the thread, and whoever comes next would work in a dead one.
    """

    def __init__(self, driver: Any, ordinal: int) -> None:
        device = driver.Device(ordinal)
        self.ordinal = ordinal
        self.name: str = device.name()
        self.compute_capability = "{}.{}".format(*device.compute_capability())
        self.pci_bus_id: str = device.pci_bus_id()
        self._driver = driver
        self._context = device.retain_primary_context()
        # Left to PyCUDA's destructor, the context is not released, and a warning about cuCtxDetach ends the program.
        atexit.register(self._context.detach)

    @staticmethod
    def open(ordinal: int) -> Device:
        """The device of that ordinal; raises EngineUnavailable with what is missing, or how many devices there are."""
        driver = load_driver()
        with _opening:
            if ordinal not in _devices:
                try:
                    driver.init()
                    count = driver.Device.count()
                    if not 0 <= ordinal < count:
                        raise EngineUnavailable(
                            f"there is no GPU {ordinal}: CUDA sees {count}, numbered from 0; correct --devices or CUDA_VISIBLE_DEVICES"
                        )
                    _devices[ordinal] = Device(driver, ordinal)
                except driver.MemoryError as error:
                    raise DeviceFull(
                        f"GPU {ordinal} has no memory left for a context ({error}); stop what else uses it"
                    ) from error
                except driver.Error as error:
                    raise EngineUnavailable(
                        f"CUDA does not start ({error}); check the driver with nvidia-smi"
                    ) from error
            return _devices[ordinal]

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current on this thread for the time of the block; what CUDA complains of becomes EngineError.

        Raises DeviceLost after a fault that leaves the context unusable, such as an access out of bounds in a kernel.
        """
        try:
            self._context.push()
        except self._driver.Error as error:
            raise DeviceLost(
                f"the context of GPU {self.ordinal} cannot be used ({error}); restart the service"
            ) from error
        try:
            yield
        except self._driver.MemoryError as error:
            raise DeviceFull(
                f"GPU {self.ordinal} ({self.name}) is out of memory ({error}); serve fewer models there, or stop what else uses it"
            ) from error
        except self._driver.Error as error:
            raise self._lost(error) or EngineError(
                f"CUDA failed on GPU {self.ordinal} ({self.name}): {error}"
            ) from error
        except (DeviceFull, DeviceLost):
            raise
        except EngineError as error:  # TensorRT's words for a fault do not say whether the context outlived it
            if lost := self._lost(error):
                raise lost from error
            raise
        finally:
            try:
                self._driver.Context.pop()
            except self._driver.Error:  # of work that failed before; the next use of the context says so
                logger.exception("the context of GPU %d could not be put away", self.ordinal)

    def stream(self) -> Any:
        return self._driver.Stream(_NON_BLOCKING)

    def event(self) -> Any:
        """Without timing, and waited for without spinning: the decoders need the core."""
        flags = self._driver.event_flags
        return self._driver.Event(int(flags.DISABLE_TIMING) | int(flags.BLOCKING_SYNC))

    def memory(self, nbytes: int) -> Any:
        """Device memory; `int(…)` is its address, `free()` gives it back."""
        return self._driver.mem_alloc(max(1, nbytes))

    def free_bytes(self) -> int:
        free, _total = self._driver.mem_get_info()
        return int(free)

    def buffer(self, nbytes: int) -> Buffer:
        return Buffer(self._driver, nbytes)

    def _lost(self, error: Exception) -> DeviceLost | None:
        try:
            self._driver.Context.synchronize()
        except self._driver.Error:
            return DeviceLost(f"GPU {self.ordinal} ({self.name}) has failed ({error}); restart the service")
        return None


class Buffer:
    """`host`, pinned, and as many bytes at `address` on the device. Copies run on a stream and return at once."""

    def __init__(self, driver: Any, nbytes: int) -> None:
        self._driver = driver
        self.host: NDArray[np.uint8] = driver.pagelocked_empty(max(1, nbytes), np.uint8)
        self._device = driver.mem_alloc(max(1, nbytes))
        self.address = int(self._device)

    def view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The first bytes of `host` as an array; valid until the next copy into it."""
        nbytes = int(np.prod(shape)) * dtype.itemsize
        return self.host[:nbytes].view(dtype).reshape(shape)

    def upload(self, nbytes: int, stream: Any) -> None:
        self._driver.memcpy_htod_async(self._device, self.host[:nbytes], stream)

    def download(self, nbytes: int, stream: Any) -> None:
        self._driver.memcpy_dtoh_async(self.host[:nbytes], self._device, stream)

    def free(self) -> None:
        """Give both sides back; no view may be used afterwards."""
        self._device.free()
        base: Any = self.host.base
        base.free()


def load_driver() -> Any:
    """`pycuda.driver`; raises EngineUnavailable where PyCUDA or NVIDIA's driver is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyCUDA warns before it raises the same
            return importlib.import_module("pycuda.driver")
    except ModuleNotFoundError as error:
        if error.name in ("pycuda", "pycuda.driver"):
            raise EngineUnavailable(
                "pycuda is not installed; run make gpu in a checkout (it is compiled: CUDA toolkit and gcc needed)"
            ) from None
        raise EngineUnavailable(f"pycuda lacks {error.name}; install it again") from None
    except (ImportError, OSError) as error:
        raise EngineUnavailable(
            f"pycuda finds no NVIDIA driver ({error}); install the driver, or give the container the GPU (--gpus all)"
        ) from None
