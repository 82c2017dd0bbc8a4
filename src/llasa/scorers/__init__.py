"""Scorers: what a candidate is worth, each from one point of view."""
