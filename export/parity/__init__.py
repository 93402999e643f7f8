"""Forms of one student beside each other: what each computes, and by how much they may differ."""
