"""Networks registered with torchreid."""
