"""What people call: thin command-line entry points, each a module with `main()`."""
