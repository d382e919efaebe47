"""Layers, one kind a file, and the combinators that compose them."""

from jaxnet.layers.combine import concatenate, repeat, residual, serial
from jaxnet.layers.dense import Dense, dense
from jaxnet.layers.elementwise import elementwise
from jaxnet.layers.layer import Composite, Layer, Reading, check_layer, map_layers, run

__all__ = [
    "Composite",
    "Dense",
    "Layer",
    "Reading",
    "check_layer",
    "concatenate",
    "dense",
    "elementwise",
    "map_layers",
    "repeat",
    "residual",
    "run",
    "serial",
]
