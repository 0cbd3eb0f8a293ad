"""The parts of a training loop: one step, its schedule, several processes, a polite stop, a journal. No torchreid."""
