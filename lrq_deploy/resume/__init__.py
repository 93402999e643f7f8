"""Work that is not done twice: state files, finished stages, and runs that continue."""
