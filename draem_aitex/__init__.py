"""DRAEM on woven fabric: the library behind the six notebooks.

    data = load_aitex("data/aitex")          # or load_folder("my_images"), load_simulated()
    detector = train(data, minutes=8)        # trained, calibrated, ready
    detector.save("mine.pt")
    result = detector.predict("some.jpg")    # .map, .score, .is_defective, .regions
    print(evaluate(detector, data.test))

These names come from the topic packages, each loaded when it is first used: importing `draem_aitex` opens no file,
starts no CUDA and loads neither PyTorch nor matplotlib. The pieces below them (patcher, augmenter, networks, losses,
trainer, metrics) are imported from `data`, `anomalies`, `model`, `training`, `detectors` and `evaluation`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from draem_aitex.data.aitex import load_aitex
    from draem_aitex.data.folder import load_folder
    from draem_aitex.detectors.base import Detector
    from draem_aitex.errors import InputError
    from draem_aitex.evaluation.evaluator import evaluate
    from draem_aitex.simulation.loom import load_simulated
    from draem_aitex.training.config import TrainConfig
    from draem_aitex.workflow import load_detector, train

__version__ = "1.0.0"
__all__ = [
    "Detector", "InputError", "TrainConfig", "evaluate", "load_aitex", "load_detector", "load_folder", "load_simulated",
    "train",
]  # fmt: skip
_HOMES = {
    "Detector": "detectors.base", "InputError": "errors", "TrainConfig": "training.config",
    "evaluate": "evaluation.evaluator", "load_aitex": "data.aitex", "load_detector": "workflow",
    "load_folder": "data.folder", "load_simulated": "simulation.loom", "train": "workflow",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
