"""Speed and memory, measured: one program per question."""
