"""Layers, one kind a file, and the combinators that compose them."""

from jaxnet.layers.attention import Attention, attention
from jaxnet.layers.combine import concatenate, repeat, residual, serial
from jaxnet.layers.contract import abstract_passes
from jaxnet.layers.convolution import Conv, conv
from jaxnet.layers.dense import Dense, dense, dense_transpose
from jaxnet.layers.dropout import dropout
from jaxnet.layers.elementwise import elementwise
from jaxnet.layers.embedding import Embedding, Positions, embedding, positions, unembedding
from jaxnet.layers.gated import Gated, gated
from jaxnet.layers.layer import Composite, Layer, Reading, check_layer, map_layers, pull, run
from jaxnet.layers.norms import Norm, affine, batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from jaxnet.layers.pool import average_pool, global_average_pool, max_pool
from jaxnet.layers.recurrence import Cell, RecurrentCell, gru_cell, lstm_cell, recurrent, rnn_cell
from jaxnet.layers.shape import flatten, reshape, transpose
from jaxnet.layers.table import ALL, Sample
from jaxnet.layers.tied import tied
from jaxnet.layers.transformer import gpt, transformer_block

__all__ = [
    "ALL",
    "Attention",
    "Cell",
    "Composite",
    "Conv",
    "Dense",
    "Embedding",
    "Gated",
    "Layer",
    "Norm",
    "Positions",
    "Reading",
    "RecurrentCell",
    "Sample",
    "abstract_passes",
    "affine",
    "attention",
    "average_pool",
    "batch_norm",
    "check_layer",
    "concatenate",
    "conv",
    "dense",
    "dense_transpose",
    "dropout",
    "elementwise",
    "embedding",
    "flatten",
    "gated",
    "global_average_pool",
    "gpt",
    "group_norm",
    "gru_cell",
    "instance_norm",
    "layer_norm",
    "lstm_cell",
    "map_layers",
    "max_pool",
    "positions",
    "pull",
    "recurrent",
    "repeat",
    "reshape",
    "residual",
    "rms_norm",
    "rnn_cell",
    "run",
    "serial",
    "tied",
    "transformer_block",
    "transpose",
    "unembedding",
]
