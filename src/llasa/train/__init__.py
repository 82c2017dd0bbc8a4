"""Training: every loop, loss and checkpoint. Inference never imports from here."""
