"""The models that are served, and what becomes of them while the service runs."""

from service.registry.registry import Broken, Registry

__all__ = ["Broken", "Registry"]
