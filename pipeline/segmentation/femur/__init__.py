"""Proximal femora: found, outlined and measured without trained weights."""
