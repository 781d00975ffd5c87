"""Models of real dimensions with random weights: the parts of scripts/make_shape_model.py."""
