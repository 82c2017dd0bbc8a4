"""Recognisers: sound to what was said."""
