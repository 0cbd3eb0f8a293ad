"""Speed and memory against torchreid."""
