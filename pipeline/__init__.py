"""openbct: from a CT study to density, fracture grades, T-score and bone strength."""
