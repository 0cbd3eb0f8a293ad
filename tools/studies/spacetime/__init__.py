"""What time is worth on the real lists and beside simulated appearance."""
