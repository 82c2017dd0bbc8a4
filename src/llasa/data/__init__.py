"""Training data: what recordings become before a model sees them."""
