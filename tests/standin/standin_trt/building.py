"""Building: parser, network and builder are the real ones of TensorRT-RTX; only where they ask for a GPU is one played."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorrt_rtx_bindings as real

from standin_trt import Flavour, HostMemory, complain, counters, driver, warn
from standin_trt.plan import Plan

# What was parsed into a network: the bindings do not tell.
_graphs: weakref.WeakKeyDictionary[Any, bytes] = weakref.WeakKeyDictionary()


class OnnxParser(real.OnnxParser):
    def __init__(self, network: Any, logger: Any) -> None:
        super().__init__(network, logger)
        self._network = network

    def parse(self, model: bytes, path: str | None = None) -> bool:
        _graphs[self._network] = bytes(model)
        return bool(super().parse(model) if path is None else super().parse(model, path))

    def parse_from_file(self, model: str) -> bool:
        _graphs[self._network] = Path(model).read_bytes()
        return bool(super().parse_from_file(model))


class TimingCache:
    """How long each kernel took, by network; bound to a device and a version. TensorRT-RTX has no use for one."""

    def __init__(self, bound_to: list[str], seen: set[str]) -> None:
        self.bound_to, self.seen = bound_to, seen

    def serialize(self) -> HostMemory:
        return HostMemory(json.dumps({"bound_to": self.bound_to, "seen": sorted(self.seen)}).encode())

    def combine(self, other: TimingCache, ignore_mismatch: bool) -> bool:
        if other.bound_to != self.bound_to and not ignore_mismatch:
            return False
        self.seen |= other.seen
        return True

    def reset(self) -> bool:
        self.seen.clear()
        return True


class Config:
    """IBuilderConfig: the real one, but for what asks for a GPU. Timing caches are the full library's."""

    def __init__(self, config: Any, flavour: Flavour, logger: Any) -> None:
        self.__dict__.update(
            {"_config": config, "_flavour": flavour, "_logger": logger, "_profiles": [], "_timings": None}
        )

    def __getattr__(self, name: str) -> Any:
        if "compute_capabilit" in name:  # TensorRT-RTX's, below
            raise AttributeError(f"'IBuilderConfig' object has no attribute {name!r}")
        return getattr(self._config, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._config, name, value)

    @property
    def for_this_gpu(self) -> bool:
        return True

    def add_optimization_profile(self, profile: Any) -> int:
        number = int(self._config.add_optimization_profile(profile))
        if number >= 0:
            self._profiles.append(profile)
        return number

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        here = self._bound_to()
        data = bytes(serialized_timing_cache)
        try:
            kept = json.loads(data) if data else {"bound_to": here, "seen": []}
            return TimingCache(kept["bound_to"], set(kept["seen"]))
        except (ValueError, KeyError, TypeError):
            warn(self._logger, "Failed to deserialize timing cache. Returning an empty timing cache.")
            return TimingCache(here, set())

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if not isinstance(cache, TimingCache):
            raise TypeError("set_timing_cache(): incompatible function arguments")
        if cache.bound_to != self._bound_to() and not ignore_mismatch:
            complain(self._logger, "The timing cache is of another device or version")
            return False
        self.__dict__["_timings"] = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._timings

    def _bound_to(self) -> list[str]:
        try:
            return [*driver.device()[:2], self._flavour.version]
        except driver.Failed as error:
            complain(self._logger, f"Error Code 1: {error}")
            warn(self._logger, "The timing cache will not be used!")
            return []


class RtxConfig(Config):
    """Compute capabilities are noted and not passed on: the real builder would look for the GPU. Timing caches are no-ops there."""

    def __init__(self, config: Any, flavour: Flavour, logger: Any) -> None:
        super().__init__(config, flavour, logger)
        self.__dict__["_capabilities"] = []

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "num_compute_capabilities":
            self.__dict__["_capabilities"] = [None] * value
        else:
            super().__setattr__(name, value)

    @property
    def num_compute_capabilities(self) -> int:
        return len(self._capabilities)

    @property
    def for_this_gpu(self) -> bool:
        return real.ComputeCapability.CURRENT in self._capabilities

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        none, alone = real.ComputeCapability.NONE, real.ComputeCapability.CURRENT
        fits = capability != none and (capability != alone or len(self._capabilities) == 1)
        if not fits or not 0 <= index < len(self._capabilities):
            complain(self._logger, f"IBuilderConfig::setComputeCapability: {capability} at {index} is not allowed")
            return False
        self._capabilities[index] = capability
        return True

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        return self._config.create_timing_cache(serialized_timing_cache)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        return bool(self._config.set_timing_cache(cache, ignore_mismatch))


class Builder:
    """The real builder behind it builds the network for no GPU in particular."""

    def __init__(self, logger: Any, *, flavour: Flavour, network_flags: Callable[[int], int]) -> None:
        self._builder, self.logger, self._flavour = real.Builder(logger), logger, flavour
        self._network_flags = network_flags

    def create_network(self, flags: int = 0) -> Any:
        return self._builder.create_network(self._network_flags(flags))

    def create_builder_config(self) -> Config:
        kind = RtxConfig if self._flavour.rtx else Config
        return kind(self._builder.create_builder_config(), self._flavour, self.logger)

    def create_optimization_profile(self) -> Any:
        return self._builder.create_optimization_profile()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._builder, name)

    def build_serialized_network(self, network: Any, config: Config) -> HostMemory | None:
        onnx = _graphs.get(network)
        if onnx is None:
            raise ValueError("the stand-in runs only networks that were parsed from ONNX")
        try:  # without a context TensorRT itself would take the first GPU
            gpu, capability = driver.device()[:2] if config.for_this_gpu else ("", "")
        except driver.Failed as error:
            complain(self.logger, f"IBuilder::buildSerializedNetwork: Error Code 1: {error}")
            return None
        if config._timings is not None:
            key = hashlib.sha256(onnx).hexdigest()
            counters.timed += key not in config._timings.seen
            config._timings.seen.add(key)
        built = self._builder.build_serialized_network(network, config._config)
        if built is None:
            return None
        counters.built += 1
        ends = [(network.get_input(i), True) for i in range(network.num_inputs)]
        ends += [(network.get_output(i), False) for i in range(network.num_outputs)]
        return HostMemory(
            Plan(
                self._flavour.name,
                self._flavour.version,
                gpu,
                capability,
                network.num_layers,
                [(end.name, is_input, end.dtype.name, list(end.shape)) for end, is_input in ends],
                [
                    {
                        end.name: [list(dims) for dims in profile.get_shape(end.name)]
                        for end, is_input in ends
                        if is_input
                    }
                    for profile in config._profiles
                ],
                onnx,
                bytes(built),
            ).pack()
        )
