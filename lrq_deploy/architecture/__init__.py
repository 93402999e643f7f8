"""Networks of libraries and of the user's own file, and what is known of their input."""
