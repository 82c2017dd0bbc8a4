"""What became of runs and systems: read from what they wrote, told in numbers and pages."""
