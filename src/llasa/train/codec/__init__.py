"""Training of codecs: `run.train` is the way in; a `Task` of train/loop.py for each kind of codec."""
