"""Language-model engines: token ids in, token ids out."""
