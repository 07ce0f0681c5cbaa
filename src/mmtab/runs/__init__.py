"""Whatever reads or writes a run folder: train, evaluate, predict, reproduce."""
