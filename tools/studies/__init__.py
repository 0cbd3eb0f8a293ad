"""What the authors run: measurements and tables of the paper. Not in the wheel; nothing imports it."""
