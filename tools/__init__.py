"""Scripts that users of torchreid expect, and the studies of the authors."""
