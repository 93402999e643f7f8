"""What a run would do, said in seconds and without training."""
