"""A Hugging Face Hub on the loopback interface, for tests and for trying everything offline."""
