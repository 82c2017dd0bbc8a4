"""Models in other programs' formats: llama.cpp's GGUF, and folders and cards for publishing."""
