"""visionquant: what a precision does to a vision transformer, measured so that it can be checked."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["AccuracyMonitor", "Predictor", "open_model", "open_network", "open_study", "restore", "save"]
# The public names, imported when they are asked for: torch is loaded for those that need it alone.
_PUBLIC = {
    "AccuracyMonitor": "deploy.accuracy_monitor",
    "Predictor": "deploy.predictor",
    "open_model": "accuracy.model_source",
    "open_network": "accuracy.model_source",
    "open_study": "analysis.study",
    "restore": "deploy.serialization",
    "save": "deploy.serialization",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
