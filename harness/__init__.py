"""quantcliff: does the quantized build still answer the long tail as the baseline does?"""

__version__ = "0.2.0"
