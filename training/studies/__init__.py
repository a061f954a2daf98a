"""Studies of many runs: sweeps in W&B's file format, and the engine that runs them and grids."""
