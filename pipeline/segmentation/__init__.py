"""Vertebral bodies and proximal femora in a CT volume: by our own chain, or by outside masks."""
