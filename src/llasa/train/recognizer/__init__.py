"""Training of the CTC recogniser: recipe, rows, copies through a codec, the task, the run."""
