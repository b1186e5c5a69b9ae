"""The models that are served, and what becomes of them while the service runs."""

from service.registry.catalogue import Broken
from service.registry.devices import Engines
from service.registry.model import Model
from service.registry.registry import Listed, Registry

__all__ = ["Broken", "Engines", "Listed", "Model", "Registry"]
