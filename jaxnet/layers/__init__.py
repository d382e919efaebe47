"""Layers, one kind a file, and the combinators that compose them."""

from jaxnet.layers.combine import concatenate, repeat, residual, serial
from jaxnet.layers.contract import abstract_passes
from jaxnet.layers.dense import Dense, dense, dense_transpose
from jaxnet.layers.elementwise import elementwise
from jaxnet.layers.layer import Composite, Layer, Reading, check_layer, map_layers, pull, run
from jaxnet.layers.table import ALL, Sample
from jaxnet.layers.tied import tied

__all__ = [
    "ALL",
    "Composite",
    "Dense",
    "Layer",
    "Reading",
    "Sample",
    "abstract_passes",
    "check_layer",
    "concatenate",
    "dense",
    "dense_transpose",
    "elementwise",
    "map_layers",
    "pull",
    "repeat",
    "residual",
    "run",
    "serial",
    "tied",
]
