"""What commands do: a run of ``quantize`` with its verdict, a validation, a benchmark."""
