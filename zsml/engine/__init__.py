"""What turns models, losses and data into runs: configuration, the training loop, checkpoints, evaluation."""
