"""DRAEM on woven fabric: the library behind the six notebooks.

Importing it opens no file, starts no CUDA and does not load matplotlib. Import what you need from the module named
after the topic: `from draem_aitex.augmenter import Augmenter`.
"""

__version__ = "0.1.0"
