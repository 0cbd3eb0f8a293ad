"""Data sets registered with torchreid."""
