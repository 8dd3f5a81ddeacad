"""tinyllm: distil the reasoning of several large teachers into one small student."""

__version__ = "0.1.0"
