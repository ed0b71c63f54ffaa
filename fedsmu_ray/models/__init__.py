"""Models: networks, torchvision's, and the user's own."""

from fedsmu_ray.models.base import Model

__all__ = ["Model"]
