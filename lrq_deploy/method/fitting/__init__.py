"""The fit of the student: batches, distillation, reconstruction of blocks."""
